// Convolution and its two gradients, version 4: long sums cut into parts.
//
// A GPU is full when every multiprocessor has a block or two. Where a layer has fewer tiles of results than that but long
// sums, several blocks share a tile: block z adds up the z-th part of each sum and writes it to a workspace, (parts,
// results), and a second kernel adds the parts. It adds them in their order, so the result is the same bits on every
// run; with atomicAdd into one array it would not be. The result is also more accurate, since a sum of partial sums
// loses fewer digits than one long sum. Smaller tiles than version 3's, 32 x 64 with 4 x 4 a thread, waste less where matrices are small.
//
// What limits this version: the parts are written and read once more, parts * results * 2 values, and there is a second
// launch. Except for small layers version 3 is faster.

#include "conv2d_registers.cuh"

using BlockTile = Tile<32, 64, 4, 4>;
constexpr int THREADS = 128;
static_assert(BlockTile::threads == THREADS, "");

// Writes a block's sums to its part of the workspace, at the index that the result has in the output.
template <class Product>
static __device__ void compute(const Product& p, BlockTile::Shared& shared, real* parts, long long results, int terms, int part) {
  real sum[4][4] = {};
  const int m0 = blockIdx.y * 32, n0 = blockIdx.x * 64, begin = part * terms;
  const int end = p.depth() - begin < terms ? p.depth() : begin + terms;
  BlockTile::multiply(p, shared, m0, n0, begin, end, sum);
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int m = m0 + BlockTile::first_row() + i, n = n0 + BlockTile::column_of(j);
      if (m < p.rows() && n < p.columns()) parts[part * results + p.output_index(m, n)] = sum[i][j];
    }
}

// Grid: (tiles of columns, tiles of rows, groups * parts). Block: 128 threads. A part is `terms` terms of each sum.

extern "C" __global__ __launch_bounds__(THREADS) void conv2d_forward_parts(
    const real* x, const real* w, real* parts, long long results, int terms,
    int N, int C, int H, int W, int K, int KH, int KW, int OH, int OW,
    int sh, int sw, int ph, int pw, int dh, int dw, int groups) {
  __shared__ BlockTile::Shared shared;
  const ConvShapes s = {N, C, H, W, K, KH, KW, OH, OW, sh, sw, ph, pw, dh, dw, groups};
  compute(Forward{s, x, w, nullptr, nullptr, 0, int(blockIdx.z) % groups}, shared, parts, results, terms, blockIdx.z / groups);
}

extern "C" __global__ __launch_bounds__(THREADS) void conv2d_input_grad_parts(
    const real* g, const real* w, real* parts, long long results, int terms,
    int N, int C, int H, int W, int K, int KH, int KW, int OH, int OW,
    int sh, int sw, int ph, int pw, int dh, int dw, int groups) {
  __shared__ BlockTile::Shared shared;
  const ConvShapes s = {N, C, H, W, K, KH, KW, OH, OW, sh, sw, ph, pw, dh, dw, groups};
  compute(InputGrad{s, g, w, nullptr, int(blockIdx.z) % groups}, shared, parts, results, terms, blockIdx.z / groups);
}

extern "C" __global__ __launch_bounds__(THREADS) void conv2d_weight_grad_parts(
    const real* x, const real* g, real* parts, long long results, int terms,
    int N, int C, int H, int W, int K, int KH, int KW, int OH, int OW,
    int sh, int sw, int ph, int pw, int dh, int dw, int groups) {
  __shared__ BlockTile::Shared shared;
  const ConvShapes s = {N, C, H, W, K, KH, KW, OH, OW, sh, sw, ph, pw, dh, dw, groups};
  compute(WeightGrad{s, x, g, nullptr, int(blockIdx.z) % groups}, shared, parts, results, terms, blockIdx.z / groups);
}

// y[i] = the sum of parts[:, i], then bias (null: none) and ReLU; result i is of channel i / pixels % channels.
extern "C" __global__ void conv2d_sum_parts(const real* parts, const real* bias, real* y, int count, long long results,
                                            int channels, int pixels, int relu) {
  for (long long i = first_index(); i < results; i += all_threads()) {
    real sum = 0;
    for (int part = 0; part < count; ++part) sum += parts[part * results + i];
    if (bias) sum += bias[i / pixels % channels];
    y[i] = relu && sum < 0 ? real(0) : sum;
  }
}
