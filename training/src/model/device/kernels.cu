// What lies between matrix products, one pass over memory each. Rows are whole blocks of threads; T is float or bf16, and
// V elements are read at once where the width allows it. Sums are of floats. The server's common.cu comes before this.

// y = w · x · r with r = 1 / sqrt(mean(x²) + ε)
template <class T, int V> __device__ void norm(T *y, const T *x, const T *w, int width, float eps) {
  x += (size_t)blockIdx.x * width;
  y += (size_t)blockIdx.x * width;
  float squares = 0;
  FOR_ROW(i, width) {
    auto a = load<T, V>(x + i);
    for (int v = 0; v < V; v++) squares += wide(a.at[v]) * wide(a.at[v]);
  }
  float r = rsqrtf(sum(squares) / width + eps);
  FOR_ROW(i, width) {
    auto a = load<T, V>(x + i), b = load<T, V>(w + i);
    for (int v = 0; v < V; v++) set(a.at[v], wide(b.at[v]) * (wide(a.at[v]) * r));
    store<T, V>(y + i, a);
  }
}

// dx = d + r · (w·dy) - x · r³ · mean(w·dy·x)
template <class T, int V>
__device__ void norm_backward(T *dx, const T *d, const T *dy, const T *x, const T *w, int width, float eps) {
  size_t row = (size_t)blockIdx.x * width;
  dx += row, d += row, dy += row, x += row;
  float squares = 0, dot = 0;
  FOR_ROW(i, width) {
    auto a = load<T, V>(x + i), b = load<T, V>(dy + i), c = load<T, V>(w + i);
    for (int v = 0; v < V; v++) {
      squares += wide(a.at[v]) * wide(a.at[v]);
      dot += wide(a.at[v]) * wide(b.at[v]) * wide(c.at[v]);
    }
  }
  float r = rsqrtf(sum(squares) / width + eps);
  float pull = sum(dot) * r * r * r / width;
  FOR_ROW(i, width) {
    auto a = load<T, V>(x + i), b = load<T, V>(dy + i), c = load<T, V>(w + i), e = load<T, V>(d + i);
    for (int v = 0; v < V; v++) set(a.at[v], wide(e.at[v]) + r * wide(c.at[v]) * wide(b.at[v]) - pull * wide(a.at[v]));
    store<T, V>(dx + i, a);
  }
}

// Heads of 2 · half elements turned by their row's angles; element i is paired with element i + half.
template <class T, int V>
__device__ void rotate(T *y, const T *x, const float *cos, const float *sin, u64 count, int heads, int half, float direction) {
  u64 i = ((u64)blockIdx.x * blockDim.x + threadIdx.x) * V;
  if (i >= count) return;
  u64 head = i / half, element = i % half, at = head * 2 * half + element, angle = head / heads * half + element;
  auto a = load<T, V>(x + at), b = load<T, V>(x + at + half);
  for (int v = 0; v < V; v++) {
    float c = cos[angle + v], s = direction * sin[angle + v], first = wide(a.at[v]), second = wide(b.at[v]);
    set(a.at[v], first * c - second * s);
    set(b.at[v], second * c + first * s);
  }
  store<T, V>(y + at, a);
  store<T, V>(y + at + half, b);
}

// (rows, heads, dim) as (heads, rows, dim).
template <class T, int V> __device__ void swap(T *y, const T *x, u64 count, int rows, int heads, int dim) {
  u64 i = ((u64)blockIdx.x * blockDim.x + threadIdx.x) * V;
  if (i >= count) return;
  u64 at = i / dim, head = at % heads, row = at / heads;
  store<T, V>(y + (head * rows + row) * dim + i % dim, load<T, V>(x + i));
}

// y = g · σ(g) · u
template <class T, int V> __device__ void swiglu(T *y, const T *gate, const T *up, u64 count) {
  u64 i = ((u64)blockIdx.x * blockDim.x + threadIdx.x) * V;
  if (i >= count) return;
  auto g = load<T, V>(gate + i), u = load<T, V>(up + i);
  for (int v = 0; v < V; v++) {
    float a = wide(g.at[v]);
    set(g.at[v], a / (1 + __expf(-a)) * wide(u.at[v]));
  }
  store<T, V>(y + i, g);
}

// dg = dy · u · σ(g) · (1 + g · (1 - σ(g))) and du = dy · g · σ(g)
template <class T, int V>
__device__ void swiglu_backward(T *dgate, T *dup, const T *d, const T *gate, const T *up, u64 count) {
  u64 i = ((u64)blockIdx.x * blockDim.x + threadIdx.x) * V;
  if (i >= count) return;
  auto g = load<T, V>(gate + i), u = load<T, V>(up + i), e = load<T, V>(d + i);
  for (int v = 0; v < V; v++) {
    float a = wide(g.at[v]), b = wide(u.at[v]), dy = wide(e.at[v]), s = 1 / (1 + __expf(-a));
    set(g.at[v], dy * b * s * (1 + a * (1 - s)));
    set(u.at[v], dy * a * s);
  }
  store<T, V>(dgate + i, g);
  store<T, V>(dup + i, u);
}

// p = softmax(scale · s) over the keys that a query sees: query `row % queries` sees `before + 1` more than its number.
template <class T, int V>
__device__ void attend(T *p, const T *s, int queries, int before, int keys, float scale) {
  s += (size_t)blockIdx.x * keys;
  p += (size_t)blockIdx.x * keys;
  int seen = before + 1 + blockIdx.x % queries;
  float most = NOTHING;
  FOR_ROW(i, seen) {
    auto a = load<T, V>(s + i);
    for (int v = 0; v < V; v++)
      if (i + v < seen) most = fmaxf(most, wide(a.at[v]));
  }
  most = largest(most) * scale;
  float total = 0;
  FOR_ROW(i, seen) {
    auto a = load<T, V>(s + i);
    for (int v = 0; v < V; v++)
      if (i + v < seen) total += __expf(wide(a.at[v]) * scale - most);
  }
  float share = 1 / sum(total);
  FOR_ROW(i, keys) {
    Pack<T, V> a;
    if (i < seen) a = load<T, V>(s + i);
    for (int v = 0; v < V; v++) set(a.at[v], i + v < seen ? __expf(wide(a.at[v]) * scale - most) * share : 0);
    store<T, V>(p + i, a);
  }
}

// ds = scale · p · (dp - Σ p · dp)
template <class T, int V>
__device__ void attend_backward(T *ds, const T *p, const T *dp, int queries, int before, int keys, float scale) {
  size_t row = (size_t)blockIdx.x * keys;
  ds += row, p += row, dp += row;
  int seen = before + 1 + blockIdx.x % queries;
  float dot = 0;
  FOR_ROW(i, seen) {
    auto a = load<T, V>(p + i), b = load<T, V>(dp + i);
    for (int v = 0; v < V; v++)
      if (i + v < seen) dot += wide(a.at[v]) * wide(b.at[v]);
  }
  dot = sum(dot);
  FOR_ROW(i, keys) {
    Pack<T, V> a, b;
    if (i < seen) a = load<T, V>(p + i), b = load<T, V>(dp + i);
    for (int v = 0; v < V; v++) set(a.at[v], i + v < seen ? scale * wide(a.at[v]) * (wide(b.at[v]) - dot) : 0);
    store<T, V>(ds + i, a);
  }
}

// log p(target) of rows of logits, which become the derivative of Σ coefficient · log p(target) where asked for.
template <class T, int V>
__device__ void log_prob(float *out, T *logits, const unsigned *targets, const float *coefficients, int vocab, int backward) {
  logits += (size_t)blockIdx.x * vocab;
  float most = NOTHING;
  FOR_ROW(i, vocab) {
    auto a = load<T, V>(logits + i);
    for (int v = 0; v < V; v++) most = fmaxf(most, wide(a.at[v]));
  }
  most = largest(most);
  float total = 0;
  FOR_ROW(i, vocab) {
    auto a = load<T, V>(logits + i);
    for (int v = 0; v < V; v++) total += __expf(wide(a.at[v]) - most);
  }
  total = sum(total);
  unsigned target = targets[blockIdx.x];
  if (threadIdx.x == 0) out[blockIdx.x] = wide(logits[target]) - most - logf(total);
  if (!backward) return;
  __syncthreads();
  float coefficient = coefficients[blockIdx.x], share = coefficient / total;
  FOR_ROW(i, vocab) {
    auto a = load<T, V>(logits + i);
    for (int v = 0; v < V; v++)
      set(a.at[v], (i + v == target ? coefficient : 0) - share * __expf(wide(a.at[v]) - most));
    store<T, V>(logits + i, a);
  }
}

// Stream `index` of `seed` (SplitMix64's finalizer).
__device__ __forceinline__ u64 derive_seed(u64 seed, u64 index) {
  u64 z = seed + (index + 1) * 0x9E3779B97F4A7C15ull;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

// Elements are 0 where the half of their pair's bits that is theirs is below the threshold, else multiplied by the factor.
template <class T> __device__ void drop_out(T *y, const T *x, u64 seed, u64 count, unsigned threshold, float factor) {
  u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  unsigned bits = (unsigned)(derive_seed(seed, i / 2) >> (i % 2 * 32));
  set(y[i], bits < threshold ? 0 : wide(x[i]) * factor);
}

#define KERNELS(T, V, name)                                                                                               \
  extern "C" __global__ void norm_##name(T *y, const T *x, const T *w, int width, float eps) {                            \
    norm<T, V>(y, x, w, width, eps);                                                                                      \
  }                                                                                                                       \
  extern "C" __global__ void norm_backward_##name(T *dx, const T *d, const T *dy, const T *x, const T *w, int width,      \
                                                  float eps) {                                                            \
    norm_backward<T, V>(dx, d, dy, x, w, width, eps);                                                                     \
  }                                                                                                                       \
  extern "C" __global__ void rotate_##name(T *y, const T *x, const float *cos, const float *sin, u64 count, int heads,    \
                                           int half, float direction) {                                                   \
    rotate<T, V>(y, x, cos, sin, count, heads, half, direction);                                                          \
  }                                                                                                                       \
  extern "C" __global__ void swap_##name(T *y, const T *x, u64 count, int rows, int heads, int dim) {                     \
    swap<T, V>(y, x, count, rows, heads, dim);                                                                            \
  }                                                                                                                       \
  extern "C" __global__ void swiglu_##name(T *y, const T *gate, const T *up, u64 count) {                                 \
    swiglu<T, V>(y, gate, up, count);                                                                                     \
  }                                                                                                                       \
  extern "C" __global__ void swiglu_backward_##name(T *dgate, T *dup, const T *d, const T *gate, const T *up,             \
                                                    u64 count) {                                                          \
    swiglu_backward<T, V>(dgate, dup, d, gate, up, count);                                                                \
  }                                                                                                                       \
  extern "C" __global__ void attend_##name(T *p, const T *s, int queries, int before, int keys, float scale) {            \
    attend<T, V>(p, s, queries, before, keys, scale);                                                                     \
  }                                                                                                                       \
  extern "C" __global__ void attend_backward_##name(T *ds, const T *p, const T *dp, int queries, int before, int keys,    \
                                                    float scale) {                                                        \
    attend_backward<T, V>(ds, p, dp, queries, before, keys, scale);                                                       \
  }                                                                                                                       \
  extern "C" __global__ void log_prob_##name(float *out, T *logits, const unsigned *targets, const float *coefficients,   \
                                             int vocab, int backward) {                                                   \
    log_prob<T, V>(out, logits, targets, coefficients, vocab, backward);                                                  \
  }                                                                                                                       \
  extern "C" __global__ void drop_out_##name(T *y, const T *x, u64 seed, u64 count, unsigned threshold, float factor) {   \
    drop_out<T>(y, x, seed, count, threshold, factor);                                                                    \
  }

KERNELS(float, 1, f32x1)
KERNELS(float, 4, f32x4)
KERNELS(bf16, 1, bf16x1)
KERNELS(bf16, 8, bf16x8)
