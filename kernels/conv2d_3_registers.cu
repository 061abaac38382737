// Convolution and its two gradients, version 3: results in registers.
//
// A block of 256 threads computes a tile of 64 x 128 results, 4 x 8 a thread (conv2d_registers.cuh). Each loaded
// value is then used so often that the multiplications, not the loads, set the pace.
//
// What limits this version is how many tiles there are. A layer of 64 filters on 128 images of 14 x 14 pixels has 196,
// little more than one for each of a large GPU's 132 multiprocessors; its weight gradient (64 filters, 32 channels, 5 x 5)
// has 7, and each of them sums 25,088 terms. Version 4 cuts the sums. Besides, with strides the input gradient
// multiplies by the zeros between strided windows: only one in sh*sw of its terms is not zero.

#include "conv2d_registers.cuh"

using BlockTile = Tile<64, 128, 4, 8>;
constexpr int THREADS = 256;
static_assert(BlockTile::threads == THREADS, "");

template <class Product>
static __device__ void compute(const Product& p, BlockTile::Shared& shared) {
  real sum[4][8] = {};
  const int m0 = blockIdx.y * 64, n0 = blockIdx.x * 128;
  BlockTile::multiply(p, shared, m0, n0, 0, p.depth(), sum);
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const int m = m0 + BlockTile::first_row() + i, n = n0 + BlockTile::column_of(j);
      if (m < p.rows() && n < p.columns()) p.write(m, n, sum[i][j]);
    }
}

// Grid: (tiles of columns, tiles of rows, groups). Block: 256 threads.

extern "C" __global__ __launch_bounds__(THREADS) void conv2d_forward(
    const real* x, const real* w, const real* bias, real* y,
    int N, int C, int H, int W, int K, int KH, int KW, int OH, int OW,
    int sh, int sw, int ph, int pw, int dh, int dw, int groups, int relu) {
  __shared__ BlockTile::Shared shared;
  const ConvShapes s = {N, C, H, W, K, KH, KW, OH, OW, sh, sw, ph, pw, dh, dw, groups};
  compute(Forward{s, x, w, bias, y, relu, int(blockIdx.z)}, shared);
}

extern "C" __global__ __launch_bounds__(THREADS) void conv2d_input_grad(
    const real* g, const real* w, real* gx,
    int N, int C, int H, int W, int K, int KH, int KW, int OH, int OW,
    int sh, int sw, int ph, int pw, int dh, int dw, int groups) {
  __shared__ BlockTile::Shared shared;
  const ConvShapes s = {N, C, H, W, K, KH, KW, OH, OW, sh, sw, ph, pw, dh, dw, groups};
  compute(InputGrad{s, g, w, gx, int(blockIdx.z)}, shared);
}

extern "C" __global__ __launch_bounds__(THREADS) void conv2d_weight_grad(
    const real* x, const real* g, real* gw,
    int N, int C, int H, int W, int K, int KH, int KW, int OH, int OW,
    int sh, int sw, int ph, int pw, int dh, int dw, int groups) {
  __shared__ BlockTile::Shared shared;
  const ConvShapes s = {N, C, H, W, K, KH, KW, OH, OW, sh, sw, ph, pw, dh, dw, groups};
  compute(WeightGrad{s, x, g, gw, int(blockIdx.z)}, shared);
}
