// Runs a kernel on the CPU, one thread after another: the simplest way to step through one in a debugger.
//
//     #include "cpu/serial.h"
//     #include "sign_step.cu"
//     int main() {
//       float x[3] = {0, 0, 0}, g[3] = {-2, 0, 5};
//       serial::launch(sign_step, 1, 256, x, g, 0.1f, -1.0f, 1.0f, 3);   // one block of 256 threads
//       return !(x[0] == -0.1f && x[1] == 0 && x[2] == 0.1f);
//     }
//
//     g++ -std=c++17 -g -I kernels step.cpp && gdb ./a.out
//
// It is exact for kernels whose threads never wait for each other. One that has __shared__ memory or __syncthreads()
// does not compile here, on purpose: run in this order, it would compute something else.
#pragma once
#include <cstddef>
#include <utility>

#define __global__
#define __device__

struct dim3 { unsigned x; };  // one dimension is all that these kernels use
static dim3 gridDim, blockDim, blockIdx, threadIdx;

namespace serial {
template <class T> struct exactly { using type = T; };  // keeps T from being deduced, so that 3 may stand for 3LL

template <class... P>
void launch(void (*kernel)(P...), unsigned grid, unsigned block, typename exactly<P>::type... args) {
  gridDim.x = grid, blockDim.x = block;
  for (blockIdx.x = 0; blockIdx.x < grid; ++blockIdx.x)
    for (threadIdx.x = 0; threadIdx.x < block; ++threadIdx.x) kernel(args...);
}

template <class... P, std::size_t... i>
void unpack(void (*kernel)(P...), unsigned grid, unsigned block, void** args, std::index_sequence<i...>) {
  launch(kernel, grid, block, *static_cast<P*>(args[i])...);
}
template <class... P>
void launch_packed(void (*kernel)(P...), unsigned grid, unsigned block, void** args) {
  unpack(kernel, grid, block, args, std::index_sequence_for<P...>());
}
}  // namespace serial

// Exports kernel as kernel_serial(grid, block, args) for a caller that is not C++; like cuLaunchKernel, it takes
// a pointer to every argument.
#define SERIAL_EXPORT(kernel) \
  extern "C" void kernel##_serial(unsigned grid, unsigned block, void** args) { \
    serial::launch_packed(kernel, grid, block, args); \
  }
