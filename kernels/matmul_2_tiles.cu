// The product of two matrices, version 2: tiles in shared memory.
//
// A block of 16 x 16 threads computes a tile of 16 x 16 elements of c, one a thread. It walks along k, 16 at a time:
//
//             b tile
//            +------+
//            |      |      1. together the threads load a 16 x 16 tile of a and one of b, one element of each a thread;
//   a tile   +------+      2. they wait for each other;
//   +------+ +------+      3. each thread multiplies its row of the a tile by its column of the b tile;
//   |      | | sums |      4. they wait again, because the next tiles overwrite these.
//   +------+ +------+
//
// So a number that is loaded from memory once is used 16 times: 16 times less traffic than in version 1.
//
// What limits this version is shared memory. Each multiply-add still reads two numbers, now from there, and a
// multiprocessor can read about 32 of them in the time of 128 multiply-adds. Version 3 keeps numbers in registers.

#include "matmul.cuh"

constexpr int TILE = 16;
static_assert(TILE * TILE == THREADS, "one thread for each element of a tile");

// The odd width puts the elements of a column in different banks of shared memory.
using Tile = real[TILE][TILE + 1];

// Loads the tile of op(matrix), which is (rows, columns), that begins at (row0, column0); zeros beyond the edges.
// Threads that are neighbours read neighbouring addresses: along a row of the matrix as it is stored.
template <bool transposed>
static __device__ void load(Tile& tile, const real* matrix, long long rows, long long columns, long long row0,
                            long long column0) {
  const int fast = threadIdx.x % TILE, slow = threadIdx.x / TILE;
  const int r = transposed ? fast : slow, c = transposed ? slow : fast;
  const long long row = row0 + r, column = column0 + c;
  const bool inside = row < rows && column < columns;
  tile[r][c] = inside ? matrix[transposed ? column * rows + row : row * columns + column] : real(0);
}

template <bool a_transposed, bool b_transposed>
static __device__ void matmul(const real* a, const real* b, const real* bias, real* c, long long M, long long N,
                              long long K) {
  __shared__ Tile a_tile, b_tile;
  const int tx = threadIdx.x % TILE, ty = threadIdx.x / TILE;
  const long long tiles_across = (N + TILE - 1) / TILE, tiles = tiles_across * ((M + TILE - 1) / TILE);
  for (long long t = blockIdx.x; t < tiles; t += gridDim.x) {
    const long long row0 = t / tiles_across * TILE, column0 = t % tiles_across * TILE;
    real sum = 0;
    for (long long k0 = 0; k0 < K; k0 += TILE) {
      load<a_transposed>(a_tile, a, M, K, row0, k0);
      load<b_transposed>(b_tile, b, K, N, k0, column0);
      __syncthreads();  // both tiles are complete
      for (int k = 0; k < TILE; ++k) sum += a_tile[ty][k] * b_tile[k][tx];
      __syncthreads();  // all threads have read them
    }
    const long long row = row0 + ty, column = column0 + tx;
    if (row < M && column < N) c[row * N + column] = bias ? sum + bias[column] : sum;
  }
}
