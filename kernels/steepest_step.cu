// The steepest-ascent steps of size eps in the l2 and the l1 norm, on each row of x, in place (the sign step is that of the
// maximum norm):
//
//   l2_step   x <- clip(x + eps * g / ||g||_2, lo, hi)
//   l1_step   x_k <- clip(x_k + eps * sign(g_k), lo, hi)     at the k with the largest |g_k|, the first of them at a tie
//
// x and g are (rows, width): one row for each example. A row whose g is all zero does not move.
//
// Unlike a sign, a norm depends on the whole row, so a block takes a row and its threads reduce it together. Each thread
// reduces every blockDim.x-th element; then shuffles combine the threads of a warp (lane i with lane i+16, then i+8, ...:
// five steps, no memory); then the warps combine through one value each in shared memory. The order of the additions
// depends only on width and blockDim.x: every bit is the same on every run.
//
// NaN counts as larger than every number. A NaN in a row of g makes the l2 step of the whole row NaN; the l1 step goes
// to the first NaN, whose x becomes NaN. An infinity makes the l2 step NaN (inf / inf); for the l1 step it is the largest
// element like any other.
//
// What limits them is memory: l2_step reads g three times (twice from the caches, if a row fits there), reads x and writes
// it; l1_step reads g and one element of x. In rows below 256 elements some threads have no work. The next steps would be
// a warp for a short row, and for long rows g kept in registers between the passes.

#include "common.cuh"

constexpr int MAX_WARPS = 32;  // in a block of at most 1024 threads

static __device__ real magnitude(real v) { return v < 0 ? -v : v; }

// Combines one value of every thread of the block, and returns the result to all of them. blockDim.x is a multiple of 32;
// combine(a, b) and combine(b, a) are the same bits; combine(identity, v) is v. warp_values is in shared memory.
template <class Value, class Combine>
static __device__ Value over_block(Value v, Value identity, Combine combine, Value (&warp_values)[MAX_WARPS]) {
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
  for (int distance = WARP / 2; distance > 0; distance /= 2) v = combine(v, v.of_lane_xor(distance));
  if (lane == 0) warp_values[warp] = v;
  __syncthreads();
  v = lane < warps ? warp_values[lane] : identity;  // every warp does this last part, so none waits for a result
  for (int distance = WARP / 2; distance > 0; distance /= 2) v = combine(v, v.of_lane_xor(distance));
  __syncthreads();  // all threads have read warp_values: it may be used again
  return v;
}

struct Number {
  real value;
  __device__ Number of_lane_xor(int bits) const { return {__shfl_xor_sync(ALL_LANES, value, bits)}; }
};

// The largest |g| so far, and its index in the row; -1 for none.
struct Largest {
  real size;
  long long index;
  __device__ Largest of_lane_xor(int bits) const {
    return {__shfl_xor_sync(ALL_LANES, size, bits), __shfl_xor_sync(ALL_LANES, index, bits)};
  }
};

static __device__ Largest largest(Largest a, Largest b) {
  if (a.index < 0 || b.index < 0) return a.index < 0 ? b : a;
  if (larger(a.size, b.size) || larger(b.size, a.size)) return larger(a.size, b.size) ? a : b;
  return a.index < b.index ? a : b;  // a tie
}

extern "C" __global__ void l2_step(real* x, const real* g, real eps, real lo, real hi, long long rows, long long width) {
  __shared__ Number warp_values[MAX_WARPS];
  const auto sum = [](Number a, Number b) { return Number{a.value + b.value}; };
  const auto max = [](Number a, Number b) { return larger(b.value, a.value) ? b : a; };
  for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
    const real* g_row = g + row * width;
    real* x_row = x + row * width;
    Number top{0}, squares{0};
    for (long long k = threadIdx.x; k < width; k += blockDim.x) top = max(top, {magnitude(g_row[k])});
    top = over_block(top, Number{0}, max, warp_values);
    // In units of the largest element no square overflows, and not all of them underflow.
    const real unit = top.value == 0 ? real(1) : top.value;
    for (long long k = threadIdx.x; k < width; k += blockDim.x)
      squares.value += (g_row[k] / unit) * (g_row[k] / unit);
    squares = over_block(squares, Number{0}, sum, warp_values);
    const real length = top.value == 0 ? real(1) : sqrt(squares.value);
    for (long long k = threadIdx.x; k < width; k += blockDim.x)
      x_row[k] = at_most(hi, at_least(lo, x_row[k] + eps * (g_row[k] / unit / length)));
  }
}

extern "C" __global__ void l1_step(real* x, const real* g, real eps, real lo, real hi, long long rows, long long width) {
  __shared__ Largest warp_values[MAX_WARPS];
  for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
    const real* g_row = g + row * width;
    Largest top{0, -1};
    for (long long k = threadIdx.x; k < width; k += blockDim.x) top = largest(top, {magnitude(g_row[k]), k});
    top = over_block(top, Largest{0, -1}, largest, warp_values);
    if (threadIdx.x == 0) {
      const real s = g_row[top.index], step = s > 0 ? eps : s < 0 ? -eps : s;  // eps * sign(s), NaN for NaN
      real* x_k = x + row * width + top.index;
      *x_k = at_most(hi, at_least(lo, *x_k + step));
    }
  }
}
