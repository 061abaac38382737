// The product of two matrices, version 3: several sums in the registers of each thread.
//
// A block of 256 threads computes a tile of BM x BN = 64 x 64 elements of c, and each thread TM x TN = 4 x 4 of them.
// For every k a thread reads 4 numbers of the a tile and 4 of the b tile and multiplies all 16 pairs: 8 reads of shared
// memory for 16 multiply-adds, where version 2 has 2 reads for one. A number from memory is now used 64 times.
//
// A thread's rows and columns are 16 apart, not side by side. Neighbouring threads then read neighbouring words of
// shared memory and write neighbouring elements of c.
//
// What limits this version is waiting: after the barrier nothing is multiplied until the next tiles have come from
// memory, some hundreds of cycles away. Version 4 loads them while it multiplies.

#include "matmul.cuh"

constexpr int BM = 64, BN = 64, BK = 16;  // of a block's tiles: a (BM, BK), b (BK, BN)
constexpr int TM = 4, TN = 4;             // of a thread's sums
constexpr int SIDE = 16;                  // the block as a square of threads, and how far apart a thread's sums are
static_assert(SIDE * SIDE == THREADS && BM == SIDE * TM && BN == SIDE * TN, "");

// tile[k][i]: k first, so that threads with neighbouring i read neighbouring words. The two words of padding spread what
// a warp writes over all 32 banks.
using Tile = real[BK][BM + 2];

// Loads tile[k][i] = element (first + i, k0 + k) of a matrix of `size` rows, zeros beyond the edges.
// k_first: it is stored as (K, size), otherwise as (size, K); either way neighbouring threads read neighbouring addresses.
template <bool k_first>
static __device__ void load(Tile& tile, const real* matrix, long long size, long long K, long long first, long long k0) {
  for (int e = threadIdx.x; e < BK * BM; e += THREADS) {
    const int i = k_first ? e % BM : e / BK, k = k_first ? e / BM : e % BK;
    const bool inside = first + i < size && k0 + k < K;
    tile[k][i] = inside ? matrix[k_first ? (k0 + k) * size + first + i : (first + i) * K + k0 + k] : real(0);
  }
}

template <bool a_transposed, bool b_transposed>
static __device__ void matmul(const real* a, const real* b, const real* bias, real* c, long long M, long long N,
                              long long K) {
  __shared__ Tile a_tile, b_tile;
  const int tx = threadIdx.x % SIDE, ty = threadIdx.x / SIDE;
  const long long tiles_across = (N + BN - 1) / BN, tiles = tiles_across * ((M + BM - 1) / BM);
  for (long long t = blockIdx.x; t < tiles; t += gridDim.x) {
    const long long row0 = t / tiles_across * BM, column0 = t % tiles_across * BN;
    real sum[TM][TN] = {};
    for (long long k0 = 0; k0 < K; k0 += BK) {
      load<a_transposed>(a_tile, a, M, K, row0, k0);
      load<!b_transposed>(b_tile, b, N, K, column0, k0);  // the rows of op(b) transposed
      __syncthreads();
#pragma unroll
      for (int k = 0; k < BK; ++k) {
        real a_k[TM], b_k[TN];
#pragma unroll
        for (int i = 0; i < TM; ++i) a_k[i] = a_tile[k][ty + i * SIDE];
#pragma unroll
        for (int j = 0; j < TN; ++j) b_k[j] = b_tile[k][tx + j * SIDE];
#pragma unroll
        for (int i = 0; i < TM; ++i)
#pragma unroll
          for (int j = 0; j < TN; ++j) sum[i][j] += a_k[i] * b_k[j];
      }
      __syncthreads();
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
