// The product of two matrices, version 1: one thread computes one element.
//
//   c[m,n] = bias[n] + sum over k of  a[m,k] * b[k,n]
//
// Threads that are neighbours compute neighbours in a row of c. At each k they read one and the same number of a, and
// neighbouring numbers of b (if b is stored transposed: numbers K apart, the worst case).
//
// What limits this version is memory. Each multiply-add loads two numbers and forgets them, though a[m,k] is needed for
// all N elements of row m, and b[k,n] for all M elements of column n. Version 2 loads tiles and uses them many times.

#include "matmul.cuh"

template <bool a_transposed, bool b_transposed>
static __device__ void matmul(const real* a, const real* b, const real* bias, real* c, long long M, long long N,
                              long long K) {
  for (long long i = first_index(); i < M * N; i += all_threads()) {
    const long long m = i / N, n = i % N;
    real sum = 0;
    for (long long k = 0; k < K; ++k)
      sum += a[a_transposed ? k * M + m : m * K + k] * b[b_transposed ? n * K + k : k * N + n];
    c[i] = bias ? sum + bias[n] : sum;
  }
}
