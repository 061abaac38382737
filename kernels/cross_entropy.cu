// The cross-entropy of a softmax classifier, one loss for each example, and its gradient:
//
//   cross_entropy_forward    loss[n] = log(sum over k of exp(z[n,k])) - z[n,label]                          -log p(label)
//   cross_entropy_backward   gz[n,k] = g[n] * (exp(z[n,k]) / sum - (k = label))                    g * (softmax - one-hot)
//
// z is (N, K), g is (N,) or null for all ones, the labels are (N,), each in 0..K-1. A kernel cannot raise an error, so a label outside makes its loss and its
// row of gz NaN, and nothing outside the row is read.
//
// Both kernels compute with z - max(z): its exponentials do not overflow, and the largest is 1, so the sum is not 0. The
// maximum is subtracted from z before the logarithm is, because z - log(sum) of large z would keep few digits. A NaN in a
// row, a maximum of inf and a row of -inf make the loss NaN, as they do in the array expressions.
//
// A warp computes a row: each of its 32 lanes takes every 32nd class, and shuffles combine the lanes, so there is no
// shared memory and no barrier. The additions have a fixed order: every bit is the same on every run.
//
// What limits it: at 10 classes the launch alone, for 128 rows are 16 blocks, and 22 of 32 lanes are idle. At many
// classes memory: a row is read three times, the second and third time from the caches. The next steps would be several
// rows to a warp for few classes, and for many the maximum and the sum in one pass, with the sum rescaled whenever the
// maximum grows.

#include "common.cuh"

static __device__ long long first_row() { return ((long long)blockIdx.x * blockDim.x + threadIdx.x) / WARP; }
static __device__ long long all_warps() { return (long long)gridDim.x * blockDim.x / WARP; }

static __device__ real not_a_number() { return real(nan("")); }

struct Row {
  real top, sum;  // the maximum of a row, and the sum of exp(z - top)
};

// Called by every lane of a warp with the same row; returns the same to all of them.
static __device__ Row softmax_row(const real* z, long long K, int lane) {
  real top = z[0], sum = 0;  // a NaN may be missing from top; it then makes the sum NaN
  for (long long k = lane; k < K; k += WARP) top = z[k] > top ? z[k] : top;
  for (int distance = WARP / 2; distance > 0; distance /= 2) {
    const real other = __shfl_xor_sync(ALL_LANES, top, distance);
    top = other > top ? other : top;
  }
  for (long long k = lane; k < K; k += WARP) sum += exp(z[k] - top);
  return {top, sum_over_warp(sum)};
}

extern "C" __global__ void cross_entropy_forward(const real* logits, const long long* labels, real* loss, long long N,
                                                 long long K) {
  const int lane = threadIdx.x % WARP;
  for (long long n = first_row(); n < N; n += all_warps()) {
    const real* z = logits + n * K;
    const Row row = softmax_row(z, K, lane);
    const long long label = labels[n];
    if (lane == 0) loss[n] = 0 <= label && label < K ? log(row.sum) - (z[label] - row.top) : not_a_number();
  }
}

extern "C" __global__ void cross_entropy_backward(const real* logits, const long long* labels, const real* g, real* gz,
                                                  long long N, long long K) {
  const int lane = threadIdx.x % WARP;
  for (long long n = first_row(); n < N; n += all_warps()) {
    const real* z = logits + n * K;
    const Row row = softmax_row(z, K, lane);
    const long long label = labels[n];
    const real scale = 0 <= label && label < K ? (g ? g[n] : real(1)) : not_a_number();
    for (long long k = lane; k < K; k += WARP)
      gz[n * K + k] = scale * (exp(z[k] - row.top) / row.sum - real(k == label));
  }
}
