// Maxout: the largest of a unit's pieces, and the way back.
//
//   maxout_forward    y[n,u] = max over p of x[n,p,u],    winner[n,u] = the first p that reaches it
//   maxout_backward   gx[n,p,u] = g[n,u] if p = winner[n,u], else 0
//
// x is (rows, pieces, run), y, winner and g are (rows, run). For dense features (N, pieces * units) a run is the units;
// for images (N, pieces * units, H, W) it is units * H * W: either way the pieces of a unit lie a run apart, and
// threads that are neighbours in u read neighbouring addresses whichever piece they look at.
//
// One thread for one element of y forward, of gx backward. NaN counts as larger than every number, so a NaN among the
// pieces wins, the first at a tie, and its gradient goes back to it, as numpy.argmax has it.
//
// What limits both is memory: for an element of y forward reads `pieces` numbers and writes 2, backward reads 2 and writes
// `pieces`. Next: keep the winner in a byte; then take the maximum at the end of the matrix product that makes x, whose
// pieces then need not be stored at all.

#ifndef real
#define real float  // -Dreal=double compiles the other precision
#endif

static __device__ long long first_index() { return (long long)blockIdx.x * blockDim.x + threadIdx.x; }
static __device__ long long all_threads() { return (long long)gridDim.x * blockDim.x; }
static __device__ bool larger(real a, real b) { return a > b || (a != a && b == b); }

extern "C" __global__ void maxout_forward(const real* x, real* y, int* winner, long long rows, int pieces,
                                          long long run) {
  for (long long i = first_index(); i < rows * run; i += all_threads()) {
    const real* piece = x + i / run * pieces * run + i % run;  // the first piece of this unit
    real best = piece[0];
    int first = 0;
    for (int p = 1; p < pieces; ++p)
      if (larger(piece[p * run], best)) best = piece[p * run], first = p;
    y[i] = best;
    winner[i] = first;
  }
}

extern "C" __global__ void maxout_backward(const real* g, const int* winner, real* gx, long long rows, int pieces,
                                           long long run) {
  for (long long i = first_index(); i < rows * pieces * run; i += all_threads()) {
    const long long u = i % run, p = i / run % pieces, n = i / run / pieces;
    gx[i] = winner[n * run + u] == p ? g[n * run + u] : real(0);
  }
}
