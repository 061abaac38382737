// The four kernels that every version of the matrix product has; each version defines the template that does the work.
//
//   matmul_nn, _nt, _tn, _tt   c = op(a) op(b) + bias      op(a) is (M, K), op(b) is (K, N), c is (M, N), bias is (N,) or null
//
// n: the matrix is stored as it is used, a as (M, K) and b as (K, N).
// t: the matrix is stored transposed, a as (K, M) and b as (N, K). The kernel reads it in that order; nothing is copied.
//
// In every version one thread adds up an element in the order of k, so every bit is the same on every run.
#include "common.cuh"

constexpr int THREADS = 256;  // in a block, of which two share a multiprocessor: ptxas then spills no registers

template <bool a_transposed, bool b_transposed>
static __device__ void matmul(const real* a, const real* b, const real* bias, real* c, long long M, long long N,
                              long long K);

extern "C" __global__ void __launch_bounds__(THREADS, 2)
matmul_nn(const real* a, const real* b, const real* bias, real* c, long long M, long long N, long long K) {
  matmul<false, false>(a, b, bias, c, M, N, K);
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
matmul_nt(const real* a, const real* b, const real* bias, real* c, long long M, long long N, long long K) {
  matmul<false, true>(a, b, bias, c, M, N, K);
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
matmul_tn(const real* a, const real* b, const real* bias, real* c, long long M, long long N, long long K) {
  matmul<true, false>(a, b, bias, c, M, N, K);
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
matmul_tt(const real* a, const real* b, const real* bias, real* c, long long M, long long N, long long K) {
  matmul<true, true>(a, b, bias, c, M, N, K);
}
