// The max-norm constraint, in place: no unit's incoming weights are longer than limit; those that are, shrink.
//
//   w <- w * min(1, limit / max(||w||_2, limit))     for the weights w of each unit
//
// The weights are (outer, length, inner), and a unit's weights lie along the middle axis: dense weights (in, out) are
// (1, in, out), filters (K, C, KH, KW) are (K, C*KH*KW, 1). A NaN in a unit's weights makes all of them NaN.
//
//   max_norm_rows      inner = 1: a unit is a row, contiguous. A block takes a row, its threads every blockDim.x-th weight;
//                      they add up their squares by shuffles within a warp, then through shared memory.
//   max_norm_columns   any inner: units are side by side, their weights `inner` apart. A block takes 32 units. A warp reads
//                      one weight of each unit at a time, so that its lanes read neighbours; the 8 warps divide the
//                      length among them and add up through shared memory.
//
// Memory limits both kernels: they read the weights once, and once more (from the caches, if they fit) to shrink the units
// that need it. Few do after the first steps, and a unit within the limit is not written. The order of additions is fixed.
// The next step would be to do it in the same pass as the update, while the new weights are in registers.

#include "common.cuh"

constexpr int THREADS = 256, WARPS = THREADS / WARP;  // both kernels need blocks of exactly that many threads

// The factor for a unit with this sum of squares; exactly 1 within the limit, NaN for NaN.
static __device__ real shrink(real squares, real limit) {
  const real length = sqrt(squares);
  return length <= limit ? real(1) : limit / length;
}

extern "C" __global__ void __launch_bounds__(THREADS, 4)
max_norm_rows(real* w, real limit, long long outer, long long length) {
  __shared__ real warp_sums[WARPS];
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  for (long long unit = blockIdx.x; unit < outer; unit += gridDim.x) {
    real* weights = w + unit * length;
    real squares = 0;
    for (long long k = threadIdx.x; k < length; k += blockDim.x) squares += weights[k] * weights[k];
    squares = sum_over_warp(squares);
    if (lane == 0) warp_sums[warp] = squares;
    __syncthreads();
    squares = 0;
    for (int i = 0; i < WARPS; ++i) squares += warp_sums[i];
    __syncthreads();  // all threads have read warp_sums: the next unit may overwrite it
    const real factor = shrink(squares, limit);
    if (factor != 1)
      for (long long k = threadIdx.x; k < length; k += blockDim.x) weights[k] *= factor;
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, 4)
max_norm_columns(real* w, real limit, long long outer, long long length, long long inner) {
  __shared__ real warp_sums[WARPS][WARP];
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  const long long wide = (inner + WARP - 1) / WARP;  // groups of 32 units side by side
  for (long long t = blockIdx.x; t < outer * wide; t += gridDim.x) {
    const long long column = t % wide * WARP + lane;
    real* weights = w + t / wide * length * inner + column;
    real squares = 0;
    if (column < inner)
      for (long long k = warp; k < length; k += WARPS) squares += weights[k * inner] * weights[k * inner];
    warp_sums[warp][lane] = squares;
    __syncthreads();
    squares = 0;
    for (int i = 0; i < WARPS; ++i) squares += warp_sums[i][lane];
    __syncthreads();
    const real factor = shrink(squares, limit);
    if (factor != 1)  // beyond the last column there are no weights, and the factor is 1
      for (long long k = warp; k < length; k += WARPS) weights[k * inner] *= factor;
  }
}
