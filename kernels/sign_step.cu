// One step of a sign-gradient attack, in place:
//
//   sign_step             x <- clip(x + eps * sign(g), lo, hi)                                        fast gradient sign method
//   projected_sign_step   x <- clip(clip(x + eps * sign(g), x0 - radius, x0 + radius), lo, hi)        projected gradient ascent
//
// As separate array operations the first line is four passes over memory (sign, multiply, add, clip), and each reads and
// writes the whole batch. Fused it is one pass: read x and g, write x. There is little arithmetic in it, so memory sets
// its speed. Only one more step could save time: to do this at the end of the kernel that computes g, which then need not
// be stored.
//
// Every element is independent of the others, so any thread may take any element.

#include "common.cuh"

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
    v = at_most(x0[i] + radius, at_least(x0[i] - radius, v));  // the ball first, then the box: x is certainly in the box
    x[i] = at_most(hi, at_least(lo, v));
  }
}
