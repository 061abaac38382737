// One step of a sign-gradient attack, in place:
//
//   sign_step             x <- clip(x + eps * sign(g), lo, hi)                                        fast gradient sign method
//   projected_sign_step   x <- clip(clip(x + eps * sign(g), x0 - radius, x0 + radius), lo, hi)        projected gradient ascent
//
// As separate array operations the first line is four passes over memory (sign, multiply, add, clip), each reading
// and writing the whole batch. Fused it is one: read x and g, write x. There is next to no arithmetic in it, so its
// speed is the memory's, and there is nothing left to optimise but the pass itself: an attack can save that one too
// by stepping at the end of the kernel that computes g, as matmul.cu does for a dense first layer.
//
// Every element stands alone, so any thread may take any element; a grid-stride loop (thread t takes t, t + T,
// t + 2T, ... of T threads) makes the result independent of how many threads were launched.

#ifndef real
#define real float  // -Dreal=double compiles the other precision
#endif

static __device__ long long first_index() { return (long long)blockIdx.x * blockDim.x + threadIdx.x; }
static __device__ long long all_threads() { return (long long)gridDim.x * blockDim.x; }

// The usual (g > 0) - (g < 0) says 0 for NaN, and a broken gradient would pass for a flat one. Here NaN stays NaN.
static __device__ real sign(real g) { return g > 0 ? real(1) : g < 0 ? real(-1) : g; }

// max and min in which a NaN on either side comes out as NaN; fmax and fmin return the other side.
static __device__ real at_least(real lo, real v) { return v >= lo || v != v ? v : lo; }
static __device__ real at_most(real hi, real v) { return v <= hi || v != v ? v : hi; }

extern "C" __global__ void sign_step(real* x, const real* g, real eps, real lo, real hi, long long n) {
  for (long long i = first_index(); i < n; i += all_threads()) {
    real v = x[i] + eps * sign(g[i]);
    x[i] = at_most(hi, at_least(lo, v));
  }
}

extern "C" __global__ void projected_sign_step(real* x, const real* g, const real* x0, real eps, real radius,
                                               real lo, real hi, long long n) {
  for (long long i = first_index(); i < n; i += all_threads()) {
    real v = x[i] + eps * sign(g[i]);
    v = at_most(x0[i] + radius, at_least(x0[i] - radius, v));  // the ball first: the box has the last word
    x[i] = at_most(hi, at_least(lo, v));
  }
}
