// Causal attention of packed rows without their scores ever being in memory (FlashAttention-2, arXiv 2307.08691), on matrix units: bf16 in
// and out, sums of floats. A block of eight warps, 16 rows each. Nothing is added by several blocks, so a result is the same
// every time. The server's common.cu comes before this.
//
// Rows of queries are (rows, heads · D), of keys and values (rows, heads / group · D). A run is neighbouring rows of one text, which see
// each other up to themselves, and all of an earlier run's beginning where they share it.

#define WARPS 8
#define EVERY _Pragma("unroll") for

constexpr int ROWS = 16 * WARPS;
constexpr float LOG2E = 1.4426950408889634f;

// How a block's rows see others: its first row, then of its run the first and the end, then the other run's first and end: of shared
// keys for queries, of queries for keys, and the end of the keys that those see.
struct Part {
  int first, start, end, other, other_end, seen;
};

// Where eight elements of a row are in shared memory: shuffled, so that eight rows' are in different banks.
template <int D> __device__ __forceinline__ unsigned place(unsigned tile, int row, int piece) {
  return tile + (row * (D / 8) + (piece ^ (row & 7))) * 16;
}

__device__ __forceinline__ unsigned in_shared(const void *p) { return (unsigned)__cvta_generic_to_shared(p); }

// Begins to copy N rows from row `first` on; rows from `end` on become zeros.
template <int D, int N>
__device__ __forceinline__ void fetch(unsigned tile, const bf16 *from, size_t stride, int first, int end) {
  EVERY (int i = 0; i < N * (D / 8) / (32 * WARPS); i++) {
    int at = threadIdx.x + i * 32 * WARPS, row = at / (D / 8), piece = at % (D / 8);
    const bf16 *source = from + (size_t)min(first + row, end - 1) * stride + piece * 8;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(place<D>(tile, row, piece)), "l"(source),
                 "r"(first + row < end ? 16 : 0) : "memory");
  }
}

__device__ __forceinline__ void fetched() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits for all that was begun but the last so many.
template <int N> __device__ __forceinline__ void wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

// Four tiles of 8 × 8 elements, of which each thread names a row.
__device__ __forceinline__ void tiles(unsigned (&x)[4], unsigned from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3]) : "r"(from) : "memory");
}
__device__ __forceinline__ void tiles_turned(unsigned (&x)[4], unsigned from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3]) : "r"(from) : "memory");
}

// c += a · b: 16 × 16 by 16 × 8.
__device__ __forceinline__ void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ unsigned pair(float low, float high) {
  unsigned x;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(x) : "f"(high), "f"(low));
  return x;
}
__device__ __forceinline__ float low(unsigned x) { return __uint_as_float(x << 16); }
__device__ __forceinline__ float high(unsigned x) { return __uint_as_float(x & 0xffff0000u); }

// 2^x
__device__ __forceinline__ float power(float x) {
  asm("ex2.approx.ftz.f32 %0, %0;" : "+f"(x));
  return x;
}

// What four neighbouring threads, which hold a row, make of their values.
__device__ __forceinline__ float row_sum(float x) {
  x += __shfl_xor_sync(0xffffffff, x, 1);
  return x + __shfl_xor_sync(0xffffffff, x, 2);
}
__device__ __forceinline__ float row_largest(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffff, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffff, x, 2));
}

// A warp's 16 rows of a matrix in memory as the left factor; zeros from `end` on.
template <int D>
__device__ __forceinline__ void rows_of(unsigned (&a)[D / 16][4], const bf16 *x, size_t stride, int row, int end) {
  int column = threadIdx.x % 4 * 2;
  EVERY (int k = 0; k < D / 16; k++)
    EVERY (int i = 0; i < 4; i++) {
      int at = row + i % 2 * 8;
      a[k][i] = at < end ? *(const unsigned *)(x + at * stride + k * 16 + i / 2 * 8 + column) : 0;
    }
}

// The same way back, times a factor for each of a thread's two rows.
template <int D>
__device__ __forceinline__ void put_rows(bf16 *x, const float (&c)[D / 8][4], size_t stride, int row, int end, float first, float second) {
  int column = threadIdx.x % 4 * 2;
  EVERY (int d = 0; d < D / 8; d++) {
    if (row < end) *(unsigned *)(x + row * stride + d * 8 + column) = pair(c[d][0] * first, c[d][1] * first);
    if (row + 8 < end) *(unsigned *)(x + (row + 8) * stride + d * 8 + column) = pair(c[d][2] * second, c[d][3] * second);
  }
}

// s += a · tileᵀ for 8 · N rows of a tile, from row `first` on.
template <int D, int N>
__device__ __forceinline__ void scores(float (&s)[N][4], const unsigned (&a)[4], unsigned tile, int first, int k) {
  int lane = threadIdx.x % 32;
  EVERY (int n = 0; n < N / 2; n++) {
    unsigned b[4];
    tiles(b, place<D>(tile, first + n * 16 + lane % 8 + lane / 16 * 8, k * 2 + lane / 8 % 2));
    multiply(s[2 * n], a, b[0], b[1]);
    multiply(s[2 * n + 1], a, b[2], b[3]);
  }
}

// c += s · tile, where s is as `scores` leaves it, for 8 · N rows of a tile, from row `first` on.
template <int D, int N>
__device__ __forceinline__ void weighted(float (&c)[D / 8][4], const float (&s)[N][4], unsigned tile, int first) {
  int lane = threadIdx.x % 32;
  EVERY (int n = 0; n < N / 2; n++) {
    const float *even = s[2 * n], *odd = s[2 * n + 1];
    unsigned a[4] = {pair(even[0], even[1]), pair(even[2], even[3]), pair(odd[0], odd[1]), pair(odd[2], odd[3])};
    EVERY (int d = 0; d < D / 16; d++) {
      unsigned b[4];
      tiles_turned(b, place<D>(tile, first + n * 16 + lane % 16, d * 2 + lane / 16));
      multiply(c[2 * d], a, b[0], b[1]);
      multiply(c[2 * d + 1], a, b[2], b[3]);
    }
  }
}

// The keys of a block of queries, N at a time: the shared ones, then their own run's up to them.
template <int N> struct Keys {
  Part part;
  int shared, count;
  __device__ __forceinline__ Keys(const Part &part) : part(part) {
    shared = (part.other_end - part.other + N - 1) / N;
    count = shared + (min(part.first + ROWS, part.end) - part.start + N - 1) / N;
  }
  __device__ __forceinline__ bool own(int i) const { return i >= shared; }
  __device__ __forceinline__ int first(int i) const { return own(i) ? part.start + (i - shared) * N : part.other + i * N; }
  __device__ __forceinline__ int end(int i) const { return own(i) ? min(part.first + ROWS, part.end) : part.other_end; }
};

extern __shared__ __align__(128) unsigned char memory[];

// out = softmax(scale · q · kᵀ) · v, and each row's and head's log2 of the softmax's sum.
template <int D>
__device__ __forceinline__ void attention(bf16 *out, float *sums, const bf16 *q, const bf16 *k, const bf16 *v, const Part *parts, int heads,
                                          int group, float scale) {
  constexpr int N = 64;
  Part part = parts[blockIdx.x / heads];
  Keys<N> keys(part);
  int head = blockIdx.x % heads, lane = threadIdx.x % 32;
  size_t stride = (size_t)heads * D, kv_stride = stride / group;
  q += head * D, out += head * D, k += head / group * D, v += head / group * D;
  int top = part.first + threadIdx.x / 32 * 16, row = top + lane / 4;
  unsigned tile = in_shared(memory);
  constexpr unsigned SIZE = N * D * 2;
  auto begin = [&](int i) {
    unsigned to = tile + i % 2 * 2 * SIZE;
    fetch<D, N>(to, k, kv_stride, keys.first(i), keys.end(i));
    fetch<D, N>(to + SIZE, v, kv_stride, keys.first(i), keys.end(i));
    fetched();
  };
  begin(0);
  unsigned a[D / 16][4];
  rows_of<D>(a, q, stride, row, part.end);
  float o[D / 8][4] = {}, most[2] = {NOTHING, NOTHING}, total[2] = {};
  float factor = scale * LOG2E;
  for (int i = 0; i < keys.count; i++) {
    if (i + 1 < keys.count) {
      begin(i + 1);
      wait<1>();
    } else {
      wait<0>();
    }
    __syncthreads();
    int first = keys.first(i), end = keys.end(i);
    if (!keys.own(i) || first < top + 16) {
      unsigned from = tile + i % 2 * 2 * SIZE;
      float s[N / 8][4] = {};
      EVERY (int kk = 0; kk < D / 16; kk++) scores<D, N / 8>(s, a[kk], from, 0, kk);
      if (first + N > end || (keys.own(i) && first + N > top + 1)) {
        EVERY (int n = 0; n < N / 8; n++)
          EVERY (int e = 0; e < 4; e++) {
            int key = first + n * 8 + lane % 4 * 2 + e % 2;
            if (key >= end || (keys.own(i) && key > row + e / 2 * 8)) s[n][e] = NOTHING;
          }
      }
      EVERY (int r = 0; r < 2; r++) {
        float larger = most[r];
        EVERY (int n = 0; n < N / 8; n++) larger = fmaxf(larger, fmaxf(s[n][2 * r], s[n][2 * r + 1]));
        larger = row_largest(larger);
        float shrink = power((most[r] - larger) * factor), sum = 0;
        most[r] = larger;
        EVERY (int n = 0; n < N / 8; n++)
          EVERY (int e = 2 * r; e < 2 * r + 2; e++) sum += s[n][e] = power((s[n][e] - larger) * factor);
        total[r] = total[r] * shrink + sum;
        EVERY (int d = 0; d < D / 8; d++) o[d][2 * r] *= shrink, o[d][2 * r + 1] *= shrink;
      }
      weighted<D, N / 8>(o, s, from + SIZE, 0);
    }
    __syncthreads();
  }
  EVERY (int r = 0; r < 2; r++) {
    total[r] = row_sum(total[r]);
    if (lane % 4 == 0 && row + 8 * r < part.end)
      sums[(size_t)(row + 8 * r) * heads + head] = most[r] * factor + log2f(total[r]);
  }
  put_rows<D>(out, o, stride, row, part.end, 1 / total[0], 1 / total[1]);
}

// With p = softmax and dp = d · vᵀ: dq = scale · (p ∘ (dp - δ)) · k, where δ = Σ d · out of each row and head, which the keys need too.
template <int D>
__device__ __forceinline__ void attention_queries(bf16 *dq, float *deltas, const bf16 *d, const bf16 *out, const float *sums, const bf16 *q,
                                                  const bf16 *k, const bf16 *v, const Part *parts, int heads, int group, float scale) {
  constexpr int N = 64, STEP = 32;
  Part part = parts[blockIdx.x / heads];
  Keys<N> keys(part);
  int head = blockIdx.x % heads, lane = threadIdx.x % 32;
  size_t stride = (size_t)heads * D, kv_stride = stride / group;
  dq += head * D, d += head * D, out += head * D, q += head * D, k += head / group * D, v += head / group * D;
  int top = part.first + threadIdx.x / 32 * 16, row = top + lane / 4;
  unsigned tile = in_shared(memory);
  constexpr unsigned SIZE = N * D * 2;
  auto begin = [&](int i) {
    unsigned to = tile + i % 2 * 2 * SIZE;
    fetch<D, N>(to, k, kv_stride, keys.first(i), keys.end(i));
    fetch<D, N>(to + SIZE, v, kv_stride, keys.first(i), keys.end(i));
    fetched();
  };
  begin(0);
  unsigned a[D / 16][4], b[D / 16][4];
  rows_of<D>(a, out, stride, row, part.end);
  rows_of<D>(b, d, stride, row, part.end);
  float delta[2] = {}, sum[2];
  EVERY (int kk = 0; kk < D / 16; kk++)
    EVERY (int i = 0; i < 4; i++) delta[i % 2] += low(a[kk][i]) * low(b[kk][i]) + high(a[kk][i]) * high(b[kk][i]);
  EVERY (int r = 0; r < 2; r++) {
    delta[r] = row_sum(delta[r]);
    size_t at = (size_t)(row + 8 * r) * heads + head;
    sum[r] = row + 8 * r < part.end ? sums[at] : 0;
    if (lane % 4 == 0 && row + 8 * r < part.end) deltas[at] = delta[r];
  }
  rows_of<D>(a, q, stride, row, part.end);
  float c[D / 8][4] = {}, factor = scale * LOG2E;
  for (int i = 0; i < keys.count; i++) {
    if (i + 1 < keys.count) {
      begin(i + 1);
      wait<1>();
    } else {
      wait<0>();
    }
    __syncthreads();
    unsigned from = tile + i % 2 * 2 * SIZE;
    EVERY (int step = 0; step < N; step += STEP) {
      int first = keys.first(i) + step, end = keys.end(i);
      if (first < end && (!keys.own(i) || first < top + 16)) {
        float s[STEP / 8][4] = {}, dp[STEP / 8][4] = {};
        EVERY (int kk = 0; kk < D / 16; kk++) {
          scores<D, STEP / 8>(s, a[kk], from, step, kk);
          scores<D, STEP / 8>(dp, b[kk], from + SIZE, step, kk);
        }
        bool edge = first + STEP > end || (keys.own(i) && first + STEP > top + 1);
        EVERY (int n = 0; n < STEP / 8; n++)
          EVERY (int e = 0; e < 4; e++) {
            float p = power(s[n][e] * factor - sum[e / 2]);
            int key = first + n * 8 + lane % 4 * 2 + e % 2;
            if (edge && (key >= end || (keys.own(i) && key > row + e / 2 * 8))) p = 0;
            s[n][e] = p * (dp[n][e] - delta[e / 2]);
          }
        weighted<D, STEP / 8>(c, s, from, step);
      }
    }
    __syncthreads();
  }
  put_rows<D>(dq, c, stride, row, part.end, scale, scale);
}

// dv = pᵀ · d and dk = scale · (p ∘ (dp - δ))ᵀ · q, over all queries that see a key and all heads of its group.
template <int D>
__device__ __forceinline__ void attention_keys(bf16 *dk, bf16 *dv, const bf16 *d, const float *sums, const float *deltas, const bf16 *q,
                                               const bf16 *k, const bf16 *v, const Part *parts, int heads, int group, float scale) {
  constexpr int N = 32;
  int kv_heads = heads / group;
  Part part = parts[blockIdx.x / kv_heads];
  int head = blockIdx.x % kv_heads, lane = threadIdx.x % 32;
  size_t stride = (size_t)heads * D, kv_stride = stride / group;
  dk += head * D, dv += head * D, k += head * D, v += head * D;
  int warp = threadIdx.x / 32 * 16, top = part.first + warp, row = top + lane / 4;
  unsigned tile = in_shared(memory);
  constexpr unsigned OWN = ROWS * D * 2, SIZE = N * D * 2;
  float *numbers = (float *)(memory + 2 * OWN + 4 * SIZE);
  // The run's own queries from these keys on, then the other's.
  int own = (part.end - part.first + N - 1) / N, others = (part.other_end - part.other + N - 1) / N, each = own + others;
  auto first_of = [&](int i) { return i % each < own ? part.first + i % each * N : part.other + (i % each - own) * N; };
  auto end_of = [&](int i) { return i % each < own ? part.end : part.other_end; };
  auto begin = [&](int i) {
    unsigned to = tile + 2 * OWN + i % 2 * 2 * SIZE;
    int query_head = head * group + i / each, first = first_of(i), end = end_of(i);
    fetch<D, N>(to, q + query_head * D, stride, first, end);
    fetch<D, N>(to + SIZE, d + query_head * D, stride, first, end);
    if (threadIdx.x < 2 * N) {
      int at = first + threadIdx.x % N;
      const float *from = (threadIdx.x < N ? sums : deltas) + (size_t)min(at, end - 1) * heads + query_head;
      unsigned target = in_shared(numbers + i % 2 * 2 * N + threadIdx.x);
      asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(target), "l"(from), "r"(at < end ? 4 : 0) : "memory");
    }
    fetched();
  };
  fetch<D, ROWS>(tile, k, kv_stride, part.first, part.end);
  fetch<D, ROWS>(tile + OWN, v, kv_stride, part.first, part.end);
  begin(0);
  float ck[D / 8][4] = {}, cv[D / 8][4] = {}, factor = scale * LOG2E;
  for (int i = 0; i < each * group; i++) {
    if (i + 1 < each * group) {
      begin(i + 1);
      wait<1>();
    } else {
      wait<0>();
    }
    __syncthreads();
    int first = first_of(i), end = end_of(i);
    bool of_own = i % each < own;
    if (!of_own || first + N > top) {
      unsigned from = tile + 2 * OWN + i % 2 * 2 * SIZE;
      const float *number = numbers + i % 2 * 2 * N;
      float s[N / 8][4] = {}, dp[N / 8][4] = {};
      EVERY (int kk = 0; kk < D / 16; kk++) {
        unsigned a[4];
        tiles(a, place<D>(tile, warp + lane % 16, kk * 2 + lane / 16));
        scores<D, N / 8>(s, a, from, 0, kk);
        tiles(a, place<D>(tile + OWN, warp + lane % 16, kk * 2 + lane / 16));
        scores<D, N / 8>(dp, a, from + SIZE, 0, kk);
      }
      bool edge = first + N > end || (of_own ? first < top + 16 : part.seen < top + 16);
      EVERY (int n = 0; n < N / 8; n++)
        EVERY (int e = 0; e < 4; e++) {
          int column = n * 8 + lane % 4 * 2 + e % 2, query = first + column, key = row + e / 2 * 8;
          float p = power(s[n][e] * factor - number[column]);
          if (edge && (query >= end || (of_own ? key > query : key >= part.seen))) p = 0;
          s[n][e] = p;
          dp[n][e] = p * (dp[n][e] - number[N + column]);
        }
      weighted<D, N / 8>(cv, s, from + SIZE, 0);
      weighted<D, N / 8>(ck, dp, from, 0);
    }
    __syncthreads();
  }
  put_rows<D>(dk, ck, kv_stride, row, part.end, scale, scale);
  put_rows<D>(dv, cv, kv_stride, row, part.end, 1, 1);
}

#define KERNELS(D)                                                                                                                     \
  extern "C" __global__ void __launch_bounds__(32 * WARPS) attention_##D(bf16 *out, float *sums, const bf16 *q, const bf16 *k,         \
                                                                         const bf16 *v, const Part *parts, int heads, int group,       \
                                                                         float scale) {                                                \
    attention<D>(out, sums, q, k, v, parts, heads, group, scale);                                                                      \
  }                                                                                                                                    \
  extern "C" __global__ void __launch_bounds__(32 * WARPS)                                                                             \
      attention_queries_##D(bf16 *dq, float *deltas, const bf16 *d, const bf16 *out, const float *sums, const bf16 *q, const bf16 *k,  \
                            const bf16 *v, const Part *parts, int heads, int group, float scale) {                                     \
    attention_queries<D>(dq, deltas, d, out, sums, q, k, v, parts, heads, group, scale);                                               \
  }                                                                                                                                    \
  extern "C" __global__ void __launch_bounds__(32 * WARPS)                                                                             \
      attention_keys_##D(bf16 *dk, bf16 *dv, const bf16 *d, const float *sums, const float *deltas, const bf16 *q, const bf16 *k,      \
                         const bf16 *v, const Part *parts, int heads, int group, float scale) {                                        \
    attention_keys<D>(dk, dv, d, sums, deltas, q, k, v, parts, heads, group, scale);                                                   \
  }

KERNELS(64)
KERNELS(128)
