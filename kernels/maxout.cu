// Maxout, the maximum over each unit's pieces, and its gradient.
//
//   maxout_forward    y[n,u] = max over p of x[n,p,u],    winner[n,u] = the first p at which x is the maximum
//   maxout_backward   gx[n,p,u] = g[n,u] if p = winner[n,u], else 0
//
// x is (rows, pieces, run), y, winner and g are (rows, run). For dense features (N, pieces * units) a run is the units;
// for images (N, pieces * units, H, W) it is units * H * W. In both the pieces of a unit lie a run apart, and threads that
// are neighbours in u read neighbouring addresses, whichever piece they read.
//
// One thread computes one element, of y forward and of gx backward. NaN counts as larger than every number;
// a maximum of NaN has the winner -1, so its gradient goes nowhere.
//
// What limits both is memory: for an element of y, forward reads `pieces` numbers and writes 2, and backward reads 2 and
// writes `pieces`. The next steps would be to keep the winner in a byte, and to take the maximum at the end of the matrix
// product that computes x, so that the pieces are not stored at all.

#include "common.cuh"

extern "C" __global__ void maxout_forward(const real* x, real* y, int* winner, long long rows, int pieces,
                                          long long run) {
  for (long long i = first_index(); i < rows * run; i += all_threads()) {
    const real* piece = x + i / run * pieces * run + i % run;  // the first piece of this unit
    real best = piece[0];
    int first = 0;
    for (int p = 1; p < pieces; ++p)
      if (larger(piece[p * run], best)) best = piece[p * run], first = p;
    y[i] = best;
    winner[i] = best == best ? first : -1;
  }
}

extern "C" __global__ void maxout_backward(const real* g, const int* winner, real* gx, long long rows, int pieces,
                                           long long run) {
  for (long long i = first_index(); i < rows * pieces * run; i += all_threads()) {
    const long long u = i % run, p = i / run % pieces, n = i / run / pieces;
    gx[i] = winner[n * run + u] == p ? g[n * run + u] : real(0);
  }
}
