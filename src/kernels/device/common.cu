// Shared by all custom kernels: element types, loads of several elements at once, sums over a block. The source is compiled at run time, so
// it includes no headers.

typedef unsigned long long u64;

#define NOTHING __int_as_float(0xff800000)

struct bf16 { unsigned short bits; };
struct f16 { unsigned short bits; };

__device__ __forceinline__ float wide(float x) { return x; }
__device__ __forceinline__ float wide(bf16 x) { return __uint_as_float((unsigned)x.bits << 16); }
__device__ __forceinline__ float wide(f16 x) {
  float out;
  asm("cvt.f32.f16 %0, %1;" : "=f"(out) : "h"(x.bits));
  return out;
}
__device__ __forceinline__ void set(float &out, float x) { out = x; }
__device__ __forceinline__ void set(f16 &out, float x) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out.bits) : "f"(x)); }
__device__ __forceinline__ void set(bf16 &out, float x) {
  unsigned bits = __float_as_uint(x);
  // Rounds to nearest, ties to even; NaN stays NaN.
  out.bits = x != x ? 0x7fc0 : (unsigned short)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

template <class T, int V> struct alignas(sizeof(T) * V) Pack {
  T at[V];
};
template <class T, int V> __device__ __forceinline__ Pack<T, V> load(const T *from) { return *(const Pack<T, V> *)from; }
template <class T, int V> __device__ __forceinline__ void store(T *to, const Pack<T, V> &pack) { *(Pack<T, V> *)to = pack; }

// Combines the values of all threads of a block with `join`, in a fixed order.
template <class Join> __device__ __forceinline__ float joined(float x, Join join) {
  __shared__ float parts[33];
  for (int step = 16; step > 0; step /= 2) x = join(x, __shfl_xor_sync(0xffffffff, x, step));
  int warps = blockDim.x / 32;
  __syncthreads();
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
  __syncthreads();
  x = parts[0];
  for (int warp = 1; warp < warps; warp++) x = join(x, parts[warp]);
  return x;
}
__device__ __forceinline__ float sum(float x) { return joined(x, [](float a, float b) { return a + b; }); }
__device__ __forceinline__ float largest(float x) { return joined(x, [](float a, float b) { return fmaxf(a, b); }); }

#define FOR_ROW(i, width) for (int i = threadIdx.x * V; i < (width); i += blockDim.x * V)
