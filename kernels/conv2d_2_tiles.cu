// Convolution and its two gradients, version 2: tiles in shared memory.
//
// Version 1 loads both factors of every product from memory. Here a block of 16 x 16 threads computes a tile of 16 x 16
// results of the matrix product that a convolution is (conv2d.cuh), and walks along the sum 16 terms at a time: together
// the threads load a 16 x 16 tile of each matrix into shared memory, one element of each a thread, wait for each other,
// and then use every loaded value 16 times. Traffic to memory falls by that factor, and so does the index arithmetic of
// version 1 (where an element lies, whether it is in the padding).
//
// What limits this version is shared memory itself: each multiplication still reads its two factors from there, and a
// multiprocessor can read about 32 values in the time of 128 multiplications. Version 3 keeps them in registers.

#include "conv2d.cuh"

constexpr int TILE = 16;

template <class Product>
static __device__ void multiply(const Product& p) {
  __shared__ real a[TILE][TILE + 1], b[TILE][TILE + 1];  // a[d][m], b[d][n]; the odd width spreads a column over the banks
  const int rows = p.rows(), columns = p.columns(), depth = p.depth();
  const int fast = threadIdx.x % TILE, slow = threadIdx.x / TILE;
  const int m = blockIdx.y * TILE + slow, n = blockIdx.x * TILE + fast;  // this thread's result

  // The elements that this thread loads: neighbouring threads load neighbours in memory, which for A are neighbours in d.
  const int load_m = m, a_d = fast;
  const int b_d = Product::depth_is_contiguous ? fast : slow;
  const int load_n = blockIdx.x * TILE + (Product::depth_is_contiguous ? slow : fast);
  const Offset column = p.column_offset(load_n < columns ? load_n : 0);  // past the last column any will do: it is not written

  real sum = 0;
  for (int d0 = 0; d0 < depth; d0 += TILE) {
    a[a_d][load_m % TILE] = load_m < rows && d0 + a_d < depth ? p.a(load_m, p.depth_offset(d0 + a_d)) : real(0);
    b[b_d][load_n % TILE] = d0 + b_d < depth ? p.b(p.depth_offset(d0 + b_d), column) : real(0);
    __syncthreads();  // both tiles are complete
    for (int d = 0; d < TILE; ++d) sum += a[d][slow] * b[d][fast];
    __syncthreads();  // all threads have read them
  }
  if (m < rows && n < columns) p.write(m, n, sum);
}

// Grid: (tiles of columns, tiles of rows, groups). Block: 256 threads.

extern "C" __global__ __launch_bounds__(256) void conv2d_forward(
    const real* x, const real* w, const real* bias, real* y,
    int N, int C, int H, int W, int K, int KH, int KW, int OH, int OW,
    int sh, int sw, int ph, int pw, int dh, int dw, int groups, int relu) {
  const ConvShapes s = {N, C, H, W, K, KH, KW, OH, OW, sh, sw, ph, pw, dh, dw, groups};
  multiply(Forward{s, x, w, bias, y, relu, int(blockIdx.z)});
}

extern "C" __global__ __launch_bounds__(256) void conv2d_input_grad(
    const real* g, const real* w, real* gx,
    int N, int C, int H, int W, int K, int KH, int KW, int OH, int OW,
    int sh, int sw, int ph, int pw, int dh, int dw, int groups) {
  const ConvShapes s = {N, C, H, W, K, KH, KW, OH, OW, sh, sw, ph, pw, dh, dw, groups};
  multiply(InputGrad{s, g, w, gx, int(blockIdx.z)});
}

extern "C" __global__ __launch_bounds__(256) void conv2d_weight_grad(
    const real* x, const real* g, real* gw,
    int N, int C, int H, int W, int K, int KH, int KW, int OH, int OW,
    int sh, int sw, int ph, int pw, int dh, int dw, int groups) {
  const ConvShapes s = {N, C, H, W, K, KH, KW, OH, OW, sh, sw, ph, pw, dh, dw, groups};
  multiply(WeightGrad{s, x, g, gw, int(blockIdx.z)});
}
