// One step of a sign-gradient attack, in place:
//
//   x <- clip(x + eps * sign(g), lo, hi)        the fast gradient sign method
//
// As separate array operations this is four passes over memory (sign, multiply, add, clip), and each reads and
// writes the whole batch. Fused it is one pass: read x and g, write x. There is little arithmetic in it, so memory sets
// its speed. Only one more step could save time: to do this at the end of the kernel that computes g, which then need not
// be stored.
//
// Every element is independent of the others, so any thread may take any element.

#include "common.cuh"

extern "C" __global__ void sign_step(real* x, const real* g, real eps, real lo, real hi, long long n) {
  for (long long i = first_index(); i < n; i += all_threads()) {
    const real v = x[i] + eps * sign(g[i]);
    x[i] = at_most(hi, at_least(lo, v));
  }
}
