// What a layer computes between its matrix products, one pass over memory each: rows in float, results in T, which is what
// the next product takes. common.cu comes before this.

// y = w · x · r with r = 1 / sqrt(mean(x²) + ε); row `i` has the weights of row `i % parts`.
template <class T, int V> __device__ void norm(T *y, const float *x, const float *w, int width, int parts, float eps) {
  x += (size_t)blockIdx.x * width, y += (size_t)blockIdx.x * width, w += (size_t)(blockIdx.x % parts) * width;
  float squares = 0;
  FOR_ROW(i, width) {
    auto a = load<float, V>(x + i);
    for (int v = 0; v < V; v++) squares += a.at[v] * a.at[v];
  }
  float r = 1 / sqrtf(sum(squares) / width + eps);
  FOR_ROW(i, width) {
    auto a = load<float, V>(x + i), b = load<float, V>(w + i);
    Pack<T, V> c;
    for (int v = 0; v < V; v++) set(c.at[v], a.at[v] * r * b.at[v]);
    store<T, V>(y + i, c);
  }
}

// Query heads of rows turned by their positions' angles and scaled; key heads turned, and value heads as they are, into the
// cache, (kv_heads, slots, 2 · half) each. `qk` has the query and key heads of a row every `step` elements, `v` the value heads.
template <class T, int V>
__device__ void place(T *q, T *keys, T *values, const float *qk, const float *v, const float *cos, const float *sin,
                      const unsigned *slots, u64 count, u64 step, u64 v_step, int heads, int kv_heads, int half, u64 room,
                      float scale) {
  u64 i = ((u64)blockIdx.x * blockDim.x + threadIdx.x) * V;
  if (i >= count) return;
  int element = i % half, all = heads + 2 * kv_heads;
  u64 head = i / half % all, row = i / half / all;
  bool turned = head < heads + kv_heads;
  const float *from = turned ? qk + row * step + head * 2 * half : v + row * v_step + (head - heads - kv_heads) * 2 * half;
  T *to = head < heads ? q + (row * heads + head) * 2 * half
                       : (turned ? keys : values) + ((head - heads) % kv_heads * room + slots[row]) * 2 * half;
  float by = head < heads ? scale : 1;
  auto a = load<float, V>(from + element), b = load<float, V>(from + element + half);
  Pack<T, V> first, second;
  for (int j = 0; j < V; j++) {
    float c = turned ? cos[row * half + element + j] : 1, s = turned ? sin[row * half + element + j] : 0;
    set(first.at[j], (a.at[j] * c - b.at[j] * s) * by);
    set(second.at[j], (b.at[j] * c + a.at[j] * s) * by);
  }
  store<T, V>(to + element, first);
  store<T, V>(to + element + half, second);
}

// p = softmax(s + mask): `group` rows after each other have one row of the mask, whose `rows` rows repeat.
template <class T, int V> __device__ void weigh(T *p, const float *s, const float *mask, int width, int group, int rows) {
  s += (size_t)blockIdx.x * width, p += (size_t)blockIdx.x * width, mask += (size_t)(blockIdx.x / group % rows) * width;
  float most = NOTHING, total = 0;
  FOR_ROW(i, width) {
    auto a = load<float, V>(s + i), b = load<float, V>(mask + i);
    for (int v = 0; v < V; v++) most = fmaxf(most, a.at[v] + b.at[v]);
  }
  most = largest(most);
  FOR_ROW(i, width) {
    auto a = load<float, V>(s + i), b = load<float, V>(mask + i);
    for (int v = 0; v < V; v++) total += expf(a.at[v] + b.at[v] - most);
  }
  float share = 1 / sum(total);
  FOR_ROW(i, width) {
    auto a = load<float, V>(s + i), b = load<float, V>(mask + i);
    Pack<T, V> c;
    for (int v = 0; v < V; v++) set(c.at[v], expf(a.at[v] + b.at[v] - most) * share);
    store<T, V>(p + i, c);
  }
}

// y = g · σ(g) · u of rows that have `width` gates and then as many others.
template <class T, int V> __device__ void swiglu(T *y, const float *x, u64 count, int width) {
  u64 i = ((u64)blockIdx.x * blockDim.x + threadIdx.x) * V;
  if (i >= count) return;
  u64 at = i / width * 2 * width + i % width;
  auto g = load<float, V>(x + at), u = load<float, V>(x + at + width);
  Pack<T, V> c;
  for (int v = 0; v < V; v++) set(c.at[v], g.at[v] / (1 + expf(-g.at[v])) * u.at[v]);
  store<T, V>(y + i, c);
}

#define KERNELS(T, V, name)                                                                                               \
  extern "C" __global__ void norm_##name(T *y, const float *x, const float *w, int width, int parts, float eps) {         \
    norm<T, V>(y, x, w, width, parts, eps);                                                                               \
  }                                                                                                                       \
  extern "C" __global__ void place_##name(T *q, T *keys, T *values, const float *qk, const float *v, const float *cos,    \
                                          const float *sin, const unsigned *slots, u64 count, u64 step, u64 v_step,       \
                                          int heads, int kv_heads, int half, u64 room, float scale) {                     \
    place<T, V>(q, keys, values, qk, v, cos, sin, slots, count, step, v_step, heads, kv_heads, half, room, scale);        \
  }                                                                                                                       \
  extern "C" __global__ void weigh_##name(T *p, const float *s, const float *mask, int width, int group, int rows) {      \
    weigh<T, V>(p, s, mask, width, group, rows);                                                                          \
  }                                                                                                                       \
  extern "C" __global__ void swiglu_##name(T *y, const float *x, u64 count, int width) {                                  \
    swiglu<T, V>(y, x, count, width);                                                                                     \
  }

KERNELS(float, 1, f32x1)
KERNELS(float, 4, f32x4)
KERNELS(f16, 1, f16x1)
KERNELS(f16, 4, f16x4)
KERNELS(bf16, 1, bf16x1)
KERNELS(bf16, 4, bf16x4)
