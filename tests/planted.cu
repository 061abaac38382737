// Kernels with a fault each, and some without, to see that the CPU runner tells them apart (test_kernels_faults.py).
// Blocks have 64 threads. `here` and `there` mark the lines that the messages must name.

#ifndef real
#define real float
#endif

// -------------------------------------------------------------------------------- found by races.h: nothing orders two accesses

extern "C" __global__ void barrier_forgotten(real* y) {
  __shared__ real s[64];
  s[threadIdx.x] = 1;
  __syncthreads();
  const real a = s[63 - threadIdx.x];  // here
  s[threadIdx.x] = a;  // there
  y[threadIdx.x] = a;
}

extern "C" __global__ void warp_barrier_forgotten(real* y) {
  __shared__ real s[64];
  s[threadIdx.x] = 1;
  __syncthreads();
  s[threadIdx.x ^ 1] += 1;  // there
  y[threadIdx.x] = s[threadIdx.x];
}

extern "C" __global__ void warp_barrier_between_warps(real* y) {
  __shared__ real s[64];
  s[threadIdx.x] = 1;  // there
  __syncwarp();
  y[threadIdx.x] = s[threadIdx.x ^ 32];  // here
}

extern "C" __global__ void warp_barrier_without_lane_7(real* y) {
  __shared__ real s[64];
  s[threadIdx.x] = 1;  // there
  if (threadIdx.x % 32 != 7) __syncwarp(~(1u << 7));
  y[threadIdx.x] = s[threadIdx.x ^ 2];  // here
}

extern "C" __global__ void warp_barrier_too_early(real* y) {
  __shared__ real s[64];
  s[threadIdx.x] = 1;
  __syncwarp();
  s[threadIdx.x] = 2;  // there
  y[threadIdx.x] = s[threadIdx.x ^ 2];  // here
}

extern "C" __global__ void shuffle_taken_for_a_barrier(real* y) {
  __shared__ real s[64];
  s[threadIdx.x] = 1;  // there
  y[threadIdx.x] = __shfl_sync(~0u, 1, 0) + s[threadIdx.x ^ 2];  // here
}

extern "C" __global__ void two_threads_write_one_element(real* y) {
  y[threadIdx.x / 2] = 1;  // here
}

extern "C" __global__ void two_blocks_add_to_one_element(real* y) {
  y[threadIdx.x] += 1;  // here
}

extern "C" __global__ void update_and_plain_write(real* y) {
  atomicAdd(y, 1);  // here
  if (threadIdx.x == 3) y[0] = 2;  // there
}

extern "C" __global__ void neighbour_read_while_overwritten(real* y) {
  y[threadIdx.x] = y[(threadIdx.x + 1) % 64];  // here
}

// --------------------------------------------------------------------------------- found by races.h: what nobody has written

extern "C" __global__ void one_element_never_written(real* y) {
  __shared__ real s[64];
  if (threadIdx.x) s[threadIdx.x] = 1;
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x];  // here
}

extern "C" __global__ void written_by_the_block_before(real* y) {
  __shared__ real s[64];
  if (blockIdx.x == 0) s[threadIdx.x] = 1;
  y[blockIdx.x * 64 + threadIdx.x] = s[threadIdx.x];  // here
}

template <class T>
static __device__ T reversed(int i) {
  __shared__ T s[64];
  s[i] = i;
  return s[63 - i];  // of_a_template
}
extern "C" __global__ void shared_memory_of_a_template(real* y) {
  y[threadIdx.x] = reversed<real>(threadIdx.x);
}

// ------------------------------------------------------------------------------------ found by a sanitizer, by races.h, or both

extern "C" __global__ void one_past_the_end(real* y) {
  y[threadIdx.x + 1] = 1;  // here
}

extern "C" __global__ void one_before_the_beginning(real* y) {
  y[int(threadIdx.x) - 1] = 1;  // here
}

extern "C" __global__ void number_half_past_the_end(real* y) {
  if (threadIdx.x == 0) y[0] = *reinterpret_cast<const double*>(y + 63);  // here
}

extern "C" __global__ void past_a_shared_array(real* y) {
  __shared__ real s[64], t[64];
  real* p = s;
  t[threadIdx.x] = 0;
  p[threadIdx.x + 1] = 1;  // here
  __syncthreads();
  y[threadIdx.x] = p[threadIdx.x] + t[threadIdx.x];
}

extern "C" __global__ void past_a_row_of_a_shared_array(real* y) {
  __shared__ real s[9][8];
  s[threadIdx.x / 8][threadIdx.x % 8 + 1] = 1;  // here
  __syncthreads();
  y[threadIdx.x] = s[1][1];
}

extern "C" __global__ void past_dynamic_shared_memory(real* y) {
  extern __shared__ real s[];
  s[threadIdx.x + 1] = 1;  // here
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x + 1];
}

extern "C" __global__ void past_an_array_of_its_own(real* y) {
  real a[4] = {};
  a[threadIdx.x] = 1;  // here
  y[threadIdx.x] = a[threadIdx.x / 32];
}

extern "C" __global__ void misaligned_vector(real* y) {
  const float4 v = *reinterpret_cast<const float4*>(y + 1);  // here
  y[threadIdx.x] = v.x;
}

extern "C" __global__ void overflowing_integer(real* y) {
  int n = 1 << 30;
  for (unsigned i = 0; i < threadIdx.x; ++i) n += 1 << 30;  // here
  y[threadIdx.x] = n;
}

// ----------------------------------------------------------------------------------------- found by block.h, in every build

extern "C" __global__ void barrier_that_some_have_left(real* y) {
  if (threadIdx.x < 16) __syncthreads();  // here
  y[threadIdx.x] = 1;
}

extern "C" __global__ void two_barriers(real* y) {
  if (threadIdx.x < 16)
    __syncthreads();  // here
  else
    __syncthreads();  // there
  y[threadIdx.x] = 1;
}

extern "C" __global__ void half_a_warp_shuffles(real* y) {
  real a = 1;
  if (threadIdx.x % 32 < 16)
    a = __shfl_down_sync(~0u, a, 1);  // here
  else
    __syncthreads();  // there
  y[threadIdx.x] = a;
}

extern "C" __global__ void two_masks(real* y) {
  const unsigned mask = threadIdx.x % 32 < 16 ? 0xffffffffu : 0xffff0000u;
  const real a = __shfl_sync(mask, 1, 20);  // here
  __syncthreads();  // there
  y[threadIdx.x] = a;
}

extern "C" __global__ void lane_outside_its_mask(real* y) {
  y[threadIdx.x] = __shfl_sync(1u, 1, 0);  // here
}

extern "C" __global__ void trap(real* y) {
  if (threadIdx.x == 9) __trap();
  y[threadIdx.x] = 1;
}

// ------------------------------------------------------------------------------------------------------- without a fault

extern "C" __global__ void sound_barrier(real* y) {
  __shared__ real s[64];
  s[threadIdx.x] = 1;
  __syncthreads();
  y[threadIdx.x] = s[63 - threadIdx.x];
}

extern "C" __global__ void sound_tiles(real* y) {
  __shared__ real s[64];
  for (int i = 0; i < 3; ++i) {
    s[threadIdx.x] = i;
    __syncthreads();
    y[threadIdx.x] += s[63 - threadIdx.x];
    __syncthreads();
  }
}

extern "C" __global__ void sound_warps(real* y) {
  __shared__ real s[64];
  s[threadIdx.x] = 1;
  __syncwarp();
  y[threadIdx.x] = s[threadIdx.x ^ 31];
}

extern "C" __global__ void sound_half_warps(real* y) {
  __shared__ real s[64];
  if (threadIdx.x % 32 >= 16) return;
  s[threadIdx.x] = 1;
  __syncwarp(0xffffu);
  y[threadIdx.x] = s[threadIdx.x ^ 15];
}

extern "C" __global__ void sound_relay(real* y) {  // 0 meets 1, then 1 meets 2: what 0 did came before what 2 does
  __shared__ real s;
  const unsigned t = threadIdx.x;
  if (t == 0) s = 1;
  if (t < 2) __syncwarp(3u);
  if (t == 1 || t == 2) __syncwarp(6u);
  if (t == 2) y[0] = s;
}

extern "C" __global__ void sound_atomics(real* y) {
  atomicAdd(y + threadIdx.x / 8, 1);
}

extern "C" __global__ void sound_readers(real* y) {
  y[64 * (blockIdx.x + 1) + threadIdx.x] = y[0];
}

extern "C" __global__ void sound_constants(real* y) {
  static const int table[3] = {1, 2, 3};
  real a[3] = {};
  for (int i = 0; i < 3; ++i) a[(i + threadIdx.x) % 3] = table[i];
  y[64 * blockIdx.x + threadIdx.x] = a[0];
}
