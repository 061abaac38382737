// What several kernels share: the precision, the loop over all elements, signs and limits that keep NaN, sums over a warp.

#ifndef real
#define real float  // -Dreal=double compiles the other precision
#endif

// A grid-stride loop: of T threads, thread t takes elements t, t + T, t + 2T, ... So any number of threads does all the work.
//
//   for (long long i = first_index(); i < n; i += all_threads()) ...
static __device__ inline long long first_index() { return (long long)blockIdx.x * blockDim.x + threadIdx.x; }
static __device__ inline long long all_threads() { return (long long)gridDim.x * blockDim.x; }

// The usual (g > 0) - (g < 0) returns 0 for NaN, and a broken gradient would pass for a flat one. Here NaN stays NaN.
static __device__ inline real sign(real g) { return g > 0 ? real(1) : g < 0 ? real(-1) : g; }

// max and min that return NaN if either argument is NaN; fmax and fmin would return the other argument.
static __device__ inline real at_least(real lo, real v) { return v >= lo || v != v ? v : lo; }
static __device__ inline real at_most(real hi, real v) { return v <= hi || v != v ? v : hi; }

// Whether a > b, where NaN counts as larger than every number: the order in which numpy.argmax finds a maximum.
static __device__ inline bool larger(real a, real b) { return a > b || (a != a && b == b); }

constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffff;

// The sum of one value of each lane, returned to all lanes: lane i adds that of lane i+16, then of i+8, ..., i+1.
// Five shuffles, no memory, and always the same order of additions.
static __device__ inline real sum_over_warp(real v) {
  for (int distance = WARP / 2; distance > 0; distance /= 2) v += __shfl_xor_sync(ALL_LANES, v, distance);
  return v;
}
