// The product of two matrices, version 4: the next tiles are loaded while these are multiplied. The library runs this one.
//
// The tiles and each thread's 4 x 4 sums are those of version 3. There are two buffers for each tile:
//
//   registers    <- the first tiles
//   for each k0:
//     buffer     <- registers
//     barrier
//     registers  <- the next tiles, on their way from memory, waited for only at the next round's first line
//     sums       += the products of this buffer
//     the other buffer is next
//
// So a round costs one barrier: when a thread overwrites a buffer, all threads have passed the barrier after the one
// behind which they last read it.
//
// What limits this version. Large products: shared memory, with 8 reads for 16 multiply-adds; a thread that owns 8 x 8
// sums and reads four numbers at a time would need 4 reads for 64, and tensor cores would be the step after that. Small
// products: there are fewer tiles than multiprocessors (128 x 1200 has 38 tiles, an H200 has 132 multiprocessors);
// dividing the sum over k among blocks, as version 4 of the convolution does, would occupy the others.

#include "matmul.cuh"

constexpr int BM = 64, BN = 64, BK = 16;     // of a block's tiles: a (BM, BK), b (BK, BN)
constexpr int TM = 4, TN = 4;                // of a thread's sums
constexpr int SIDE = 16;                     // the block as a square of threads, and how far apart a thread's sums are
constexpr int LOADS = BM * BK / THREADS;     // elements of each tile that a thread loads
static_assert(SIDE * SIDE == THREADS && BM == SIDE * TM && BN == SIDE * TN && BM * BK % THREADS == 0, "");

// tile[k][i]: k first, so that threads with neighbouring i read neighbouring words. The two words of padding spread what
// a warp writes over all 32 banks.
using Tile = real[BK][BM + 2];

// Which element of a tile is this thread's n-th: neighbouring threads read neighbouring addresses.
struct Element {
  int k, i;
};
template <bool k_first>
static __device__ Element element(int n) {
  const int e = threadIdx.x + n * THREADS;
  return k_first ? Element{e / BM, e % BM} : Element{e % BK, e / BK};
}

// Loads into registers this thread's elements of the tile at (first, k0) of a matrix of `size` rows; zeros beyond the edges.
// k_first: it is stored as (K, size), otherwise as (size, K).
template <bool k_first>
static __device__ void load(real (&loaded)[LOADS], const real* matrix, long long size, long long K, long long first,
                            long long k0) {
#pragma unroll
  for (int n = 0; n < LOADS; ++n) {
    const long long i = first + element<k_first>(n).i, k = k0 + element<k_first>(n).k;
    loaded[n] = i < size && k < K ? matrix[k_first ? k * size + i : i * K + k] : real(0);
  }
}

template <bool k_first>
static __device__ void store(Tile& tile, const real (&loaded)[LOADS]) {
#pragma unroll
  for (int n = 0; n < LOADS; ++n) tile[element<k_first>(n).k][element<k_first>(n).i] = loaded[n];
}

template <bool a_transposed, bool b_transposed>
static __device__ void matmul(const real* a, const real* b, const real* bias, real* c, long long M, long long N,
                              long long K) {
  __shared__ Tile a_tiles[2], b_tiles[2];
  const int tx = threadIdx.x % SIDE, ty = threadIdx.x / SIDE;
  const long long tiles_across = (N + BN - 1) / BN, tiles = tiles_across * ((M + BM - 1) / BM);
  int buffer = 0;
  for (long long t = blockIdx.x; t < tiles; t += gridDim.x) {
    const long long row0 = t / tiles_across * BM, column0 = t % tiles_across * BN;
    real sum[TM][TN] = {}, a_next[LOADS], b_next[LOADS];
    load<a_transposed>(a_next, a, M, K, row0, 0);
    load<!b_transposed>(b_next, b, N, K, column0, 0);  // the rows of op(b) transposed
    for (long long k0 = 0; k0 < K; k0 += BK) {
      store<a_transposed>(a_tiles[buffer], a_next);
      store<!b_transposed>(b_tiles[buffer], b_next);
      __syncthreads();
      load<a_transposed>(a_next, a, M, K, row0, k0 + BK);
      load<!b_transposed>(b_next, b, N, K, column0, k0 + BK);
#pragma unroll
      for (int k = 0; k < BK; ++k) {
        real a_k[TM], b_k[TN];
#pragma unroll
        for (int i = 0; i < TM; ++i) a_k[i] = a_tiles[buffer][k][ty + i * SIDE];
#pragma unroll
        for (int j = 0; j < TN; ++j) b_k[j] = b_tiles[buffer][k][tx + j * SIDE];
#pragma unroll
        for (int i = 0; i < TM; ++i)
#pragma unroll
          for (int j = 0; j < TN; ++j) sum[i][j] += a_k[i] * b_k[j];
      }
      buffer = 1 - buffer;
    }
#pragma unroll
    for (int i = 0; i < TM; ++i)
#pragma unroll
      for (int j = 0; j < TN; ++j) {
        const long long row = row0 + ty + i * SIDE, column = column0 + tx + j * SIDE;
        if (row < M && column < N) c[row * N + column] = bias ? sum[i][j] + bias[column] : sum[i][j];
      }
  }
}
