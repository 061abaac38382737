// The sisters of the sign step: the steepest-ascent steps of size eps in the other two norms, on each row of x, in place:
//
//   l2_step   x <- clip(x + eps * g / ||g||_2, lo, hi)
//   l1_step   x_k <- clip(x_k + eps * sign(g_k), lo, hi)     at the k with the largest |g_k|, the first of them at a tie
//
// x and g are (rows, width): one row for each example. Where g is all zero its row does not move.
//
// Unlike the sign, a norm needs the whole row before its first element can move, so a block takes a row, and its threads
// meet: each goes through every blockDim.x-th element, then the threads of a warp combine what they found by shuffles
// (lane i with lane i+16, then i+8, ...: five steps, no memory), then the warps through one number each in shared
// memory. The order of the additions depends on width and blockDim.x alone: every bit is the same on every run.
//
// NaN counts as larger than every number. A NaN in a row of g makes the l2 step of the whole row NaN; the l1 step goes
// to the first NaN, whose x becomes NaN. An infinity makes the l2 step NaN (inf / inf) and is an ordinary largest
// element to the l1 step.
//
// What limits them is memory: l2_step reads g three times (twice from the caches, if a row fits there) and x once and
// writes x; l1_step reads g and touches one element of x. Short rows waste threads: below 256 elements some have
// nothing to do. Next: a warp for a short row; for long ones g kept in registers between the passes.

#ifndef real
#define real float  // -Dreal=double compiles the other precision
#endif

constexpr int WARP = 32, MOST_WARPS = 32;  // at most 1024 threads in a block

static __device__ real at_least(real lo, real v) { return v >= lo || v != v ? v : lo; }
static __device__ real at_most(real hi, real v) { return v <= hi || v != v ? v : hi; }
static __device__ real magnitude(real v) { return v < 0 ? -v : v; }

// Combine one value of every thread of the block into one, which all of them get. blockDim.x is a multiple of 32;
// combine(a, b) and combine(b, a) are the same bits, and nothing combined with v is v. of_warp is in shared memory.
template <class Value, class Combine>
static __device__ Value over_block(Value v, Value nothing, Combine combine, Value (&of_warp)[MOST_WARPS]) {
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
  for (int apart = WARP / 2; apart > 0; apart /= 2) v = combine(v, v.of_lane_xor(apart));
  if (lane == 0) of_warp[warp] = v;
  __syncthreads();
  v = lane < warps ? of_warp[lane] : nothing;  // every warp does this last part: nobody waits for a result
  for (int apart = WARP / 2; apart > 0; apart /= 2) v = combine(v, v.of_lane_xor(apart));
  __syncthreads();  // all have read of_warp: it may be used again
  return v;
}

struct Number {
  real value;
  __device__ Number of_lane_xor(int apart) const { return {__shfl_xor_sync(0xffffffff, value, apart)}; }
};

// The largest |g| so far, and where it is; where = -1 for none.
struct Largest {
  real size;
  long long where;
  __device__ Largest of_lane_xor(int apart) const {
    return {__shfl_xor_sync(0xffffffff, size, apart), __shfl_xor_sync(0xffffffff, where, apart)};
  }
};

static __device__ bool larger(real a, real b) { return a > b || (a != a && b == b); }

static __device__ Largest largest(Largest a, Largest b) {
  if (a.where < 0 || b.where < 0) return a.where < 0 ? b : a;
  if (larger(a.size, b.size) || larger(b.size, a.size)) return larger(a.size, b.size) ? a : b;
  return a.where < b.where ? a : b;  // a tie
}

extern "C" __global__ void l2_step(real* x, const real* g, real eps, real lo, real hi, long long rows, long long width) {
  __shared__ Number of_warp[MOST_WARPS];
  const auto sum = [](Number a, Number b) { return Number{a.value + b.value}; };
  const auto max = [](Number a, Number b) { return larger(b.value, a.value) ? b : a; };
  for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
    const real* slope = g + row * width;
    real* point = x + row * width;
    Number top{0}, squares{0};
    for (long long k = threadIdx.x; k < width; k += blockDim.x) top = max(top, {magnitude(slope[k])});
    top = over_block(top, Number{0}, max, of_warp);
    // In units of the largest element no square overflows, and not all of them underflow.
    const real unit = top.value == 0 ? real(1) : top.value;
    for (long long k = threadIdx.x; k < width; k += blockDim.x)
      squares.value += (slope[k] / unit) * (slope[k] / unit);
    squares = over_block(squares, Number{0}, sum, of_warp);
    const real length = top.value == 0 ? real(1) : sqrt(squares.value);
    for (long long k = threadIdx.x; k < width; k += blockDim.x)
      point[k] = at_most(hi, at_least(lo, point[k] + eps * (slope[k] / unit / length)));
  }
}

extern "C" __global__ void l1_step(real* x, const real* g, real eps, real lo, real hi, long long rows, long long width) {
  __shared__ Largest of_warp[MOST_WARPS];
  for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
    const real* slope = g + row * width;
    Largest top{0, -1};
    for (long long k = threadIdx.x; k < width; k += blockDim.x) top = largest(top, {magnitude(slope[k]), k});
    top = over_block(top, Largest{0, -1}, largest, of_warp);
    if (threadIdx.x == 0) {
      const real s = slope[top.where], step = s > 0 ? eps : s < 0 ? -eps : s;  // eps * sign(s), NaN for NaN
      real* point = x + row * width + top.where;
      *point = at_most(hi, at_least(lo, *point + step));
    }
  }
}
