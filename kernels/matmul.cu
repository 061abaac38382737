// The product of two matrices, and two ways to finish an element of it: add a bias, or take an attack's step.
//
//   matmul_nn, _nt, _tn, _tt   c = op(a) op(b) + bias      op(a) is (M, K), op(b) is (K, N), c is (M, N), bias is (N,) or null
//   dense_sign_step            x <- clip(clip(x + eps * sign(d w^T), x0 - radius, x0 + radius), lo, hi)
//
// n: a matrix is stored as it is used; t: it is stored transposed, (K, M) or (N, K), and read so, never copied.
//
// The second finish is the fast gradient sign method in a network whose first layer is dense, y = x w, with w (D, K)
// and d = dL/dy (N, K): the gradient dL/dx = d w^T is needed for its signs only. Each element of it lives in a register
// until its step is taken, and is never stored: N*D elements less to write, and as many less to read back. The whole
// sum must be in one thread's hands for that, so the summed index is never divided among threads.
//
// How the work is divided. The plain way, one thread for one element, loads two numbers for every multiplication. Here
// a block computes a tile of 64 x 64 elements. It walks along the summed index 16 at a time: its 256 threads together
// copy the 64 x 16 piece of a and the 16 x 64 piece of b that meet there into shared memory, where each number is then
// used 64 times. A thread owns 4 x 4 elements of the tile, in registers; for every k it reads 4 numbers of each piece
// and multiplies all 16 pairs. Its rows and columns are 16 apart, so that threads that are neighbours read, and in the
// end write, neighbouring addresses.
//
//               b piece
//             +---------+
//             | v       |  16 deep            While the products of one piece are summed, the next is on its way from
//     a piece +---------+                     memory to registers; then it goes into the other of two buffers. So a
//     +-----+ +---------+                     piece costs one barrier: when a thread overwrites a buffer, everyone has
//     | u   | |  sums   |  64 x 64            passed the barrier after the one behind which it was last read.
//     +-----+ +---------+
//
// What limits it. Large products: shared memory, with 8 loads for 16 multiply-adds; the next versions own 8 x 8 with
// vector loads, and then leave the multiplying to tensor cores. Small products: there are not enough tiles for all
// multiprocessors (128 x 1200 has 38, an H200 has 132); the next version divides the summed index among blocks.
// Each element is summed by one thread in the order of k, so every bit is the same on every run.

#ifndef real
#define real float  // -Dreal=double compiles the other precision
#endif

constexpr int TILE = 64, DEPTH = 16;           // of a piece: 64 rows of a (or columns of b), 16 deep
constexpr int THREADS = 256, SIDE = 16;        // of a block, which is thought of as a square
constexpr int EACH = TILE / SIDE;              // a thread owns EACH x EACH sums, SIDE apart,
constexpr int LOADS = TILE * DEPTH / THREADS;  // and brings in this many numbers of each piece

// Two columns of padding: a warp that writes floats 16 deep and 2 across then hits all 32 banks of shared memory once.
using Piece = real[DEPTH][TILE + 2];
struct Pieces {
  Piece a[2], b[2];  // two of each: one in use, one coming in
};
// Not inside the template below: g++ would put it where the checks of kernels/cpu do not look.
static __device__ Pieces& shared_pieces() {
  __shared__ Pieces pieces;
  return pieces;
}

// Where in a piece a thread's i-th number belongs, chosen so that neighbouring threads read neighbouring addresses:
// across first if the matrix is stored (K, any), depth first if it is stored (any, K).
template <bool across_first>
static __device__ int across(int i) {
  const int e = threadIdx.x + i * THREADS;
  return across_first ? e % TILE : e / DEPTH;
}
template <bool across_first>
static __device__ int depth(int i) {
  const int e = threadIdx.x + i * THREADS;
  return across_first ? e / TILE : e % DEPTH;
}

// Read a thread's share of the piece at (first, k0) of a matrix with `size` rows or columns; zeros beyond its edges.
template <bool across_first>
static __device__ void fetch(real (&kept)[LOADS], const real* matrix, long long size, long long K, long long first,
                             long long k0) {
#pragma unroll
  for (int i = 0; i < LOADS; ++i) {
    const long long r = first + across<across_first>(i), k = k0 + depth<across_first>(i);
    kept[i] = r < size && k < K ? matrix[across_first ? k * size + r : r * K + k] : real(0);
  }
}

template <bool across_first>
static __device__ void put(Piece& piece, const real (&kept)[LOADS]) {
#pragma unroll
  for (int i = 0; i < LOADS; ++i) piece[depth<across_first>(i)][across<across_first>(i)] = kept[i];
}

// Call finish(row, column, sum) once for every element of op(a) op(b), each on the thread that has summed it.
template <bool a_transposed, bool b_transposed, class Finish>
static __device__ void product(const real* a, const real* b, long long M, long long N, long long K, Finish finish) {
  Pieces& piece = shared_pieces();
  const int tx = threadIdx.x % SIDE, ty = threadIdx.x / SIDE;
  const long long wide = (N + TILE - 1) / TILE, tiles = wide * ((M + TILE - 1) / TILE);
  int now = 0;  // which of the two
  for (long long t = blockIdx.x; t < tiles; t += gridDim.x) {
    const long long row0 = t / wide * TILE, column0 = t % wide * TILE;
    real sum[EACH][EACH] = {}, a_next[LOADS], b_next[LOADS];
    fetch<a_transposed>(a_next, a, M, K, row0, 0);
    fetch<!b_transposed>(b_next, b, N, K, column0, 0);
    for (long long k0 = 0; k0 < K; k0 += DEPTH) {
      put<a_transposed>(piece.a[now], a_next);
      put<!b_transposed>(piece.b[now], b_next);
      __syncthreads();
      fetch<a_transposed>(a_next, a, M, K, row0, k0 + DEPTH);  // not waited for until the next put
      fetch<!b_transposed>(b_next, b, N, K, column0, k0 + DEPTH);
#pragma unroll
      for (int k = 0; k < DEPTH; ++k) {
        real u[EACH], v[EACH];
#pragma unroll
        for (int i = 0; i < EACH; ++i) u[i] = piece.a[now][k][ty + i * SIDE], v[i] = piece.b[now][k][tx + i * SIDE];
#pragma unroll
        for (int i = 0; i < EACH; ++i)
#pragma unroll
          for (int j = 0; j < EACH; ++j) sum[i][j] += u[i] * v[j];
      }
      now = 1 - now;
    }
#pragma unroll
    for (int i = 0; i < EACH; ++i)
#pragma unroll
      for (int j = 0; j < EACH; ++j) {
        const long long row = row0 + ty + i * SIDE, column = column0 + tx + j * SIDE;
        if (row < M && column < N) finish(row, column, sum[i][j]);
      }
  }
}

// ------------------------------------------------------------------------------------------------ finish: a bias

template <bool a_transposed, bool b_transposed>
static __device__ void matmul(const real* a, const real* b, const real* bias, real* c, long long M, long long N,
                              long long K) {
  product<a_transposed, b_transposed>(a, b, M, N, K, [=](long long row, long long column, real sum) {
    c[row * N + column] = bias ? sum + bias[column] : sum;
  });
}

extern "C" __global__ void __launch_bounds__(THREADS)
matmul_nn(const real* a, const real* b, const real* bias, real* c, long long M, long long N, long long K) {
  matmul<false, false>(a, b, bias, c, M, N, K);
}

extern "C" __global__ void __launch_bounds__(THREADS)
matmul_nt(const real* a, const real* b, const real* bias, real* c, long long M, long long N, long long K) {
  matmul<false, true>(a, b, bias, c, M, N, K);
}

extern "C" __global__ void __launch_bounds__(THREADS)
matmul_tn(const real* a, const real* b, const real* bias, real* c, long long M, long long N, long long K) {
  matmul<true, false>(a, b, bias, c, M, N, K);
}

extern "C" __global__ void __launch_bounds__(THREADS)
matmul_tt(const real* a, const real* b, const real* bias, real* c, long long M, long long N, long long K) {
  matmul<true, true>(a, b, bias, c, M, N, K);
}

// ------------------------------------------------------------------------------------------------ finish: a step

// As in sign_step.cu: the sign of NaN is NaN, and NaN passes through the limits.
static __device__ real sign(real g) { return g > 0 ? real(1) : g < 0 ? real(-1) : g; }
static __device__ real at_least(real lo, real v) { return v >= lo || v != v ? v : lo; }
static __device__ real at_most(real hi, real v) { return v <= hi || v != v ? v : hi; }

// x and x0 are (M, N), d is (M, K), w is (N, K). Without a ball x0 is null.
extern "C" __global__ void __launch_bounds__(THREADS)
dense_sign_step(real* x, const real* d, const real* w, const real* x0, real eps, real radius, real lo, real hi,
                long long M, long long N, long long K) {
  product<false, true>(d, w, M, N, K, [=](long long row, long long column, real sum) {
    const long long i = row * N + column;
    real v = x[i] + eps * sign(sum);
    if (x0) v = at_most(x0[i] + radius, at_least(x0[i] - radius, v));
    x[i] = at_most(hi, at_least(lo, v));
  });
}
