// The cross-entropy of a softmax classifier, one loss for each example, and its gradient:
//
//   cross_entropy_forward    loss[n] = log(sum over k of exp(z[n,k])) - z[n,label]                          -log p(label)
//   cross_entropy_backward   gz[n,k] = g[n] * (exp(z[n,k]) / sum - (k = label))                    g * (softmax - one-hot)
//
// z is (N, K), the labels (N,), each in 0..K-1. A label outside makes its loss, and its row of gz, NaN: nothing is read
// outside the row, and no kernel can raise an error.
//
// Both work on z - max(z): its exponentials do not overflow, and the largest is 1, so the sum is not 0. The maximum is
// subtracted first and the logarithm last, since of large numbers z - log(sum) would keep few digits. NaN among a row's
// numbers, a maximum of inf and a row of -inf make the loss NaN, as they do in the array expressions.
//
// A warp takes a row: its 32 lanes go through every 32nd class and combine by shuffles, so rows need no shared memory
// and no barrier. The additions have a fixed order: every bit is the same on every run.
//
// What limits it at 10 classes is nothing but the launch: 22 of 32 lanes idle, and 128 rows are 16 blocks. At many
// classes it is memory: a row is read three times, the second and third from the caches. Next, for those: the maximum
// and the sum in one pass, rescaling the sum whenever the maximum grows. For 10 classes: a few rows to a warp.

#ifndef real
#define real float  // -Dreal=double compiles the other precision
#endif

constexpr int WARP = 32;
static __device__ long long first_row() { return ((long long)blockIdx.x * blockDim.x + threadIdx.x) / WARP; }
static __device__ long long all_warps() { return (long long)gridDim.x * blockDim.x / WARP; }

static __device__ real not_a_number() { return real(nan("")); }

// May lose a NaN, which then makes the sum of exponentials NaN.
static __device__ real larger_of(real a, real b) { return b > a ? b : a; }

struct Row {
  real top, sum;  // the maximum of a row, and the sum of exp(z - top)
};

// Every lane of the warp comes here with the same row, and gets the same answer.
static __device__ Row softmax_row(const real* z, long long K, int lane) {
  real top = z[0], sum = 0;
  for (long long k = lane; k < K; k += WARP) top = larger_of(top, z[k]);
  for (int apart = WARP / 2; apart > 0; apart /= 2) top = larger_of(top, __shfl_xor_sync(0xffffffff, top, apart));
  for (long long k = lane; k < K; k += WARP) sum += exp(z[k] - top);
  for (int apart = WARP / 2; apart > 0; apart /= 2) sum += __shfl_xor_sync(0xffffffff, sum, apart);
  return {top, sum};
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
    const real scale = 0 <= label && label < K ? g[n] : not_a_number();
    for (long long k = lane; k < K; k += WARP)
      gz[n * K + k] = scale * (exp(z[k] - row.top) / row.sum - real(k == label));
  }
}
