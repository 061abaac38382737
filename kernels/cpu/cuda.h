// The CUDA language for g++: enough of it that the files of kernels/ compile unmodified and run on a CPU.
//
//     g++ -std=c++17 -include kernels/cpu/cuda.h -Dreal=float -x c++ kernels/sign_step.cu
//
// This file defines the language (__global__, float4, atomicAdd, __shfl_xor_sync ...). block.h runs the threads, fibers.h
// pauses them, launch.h is the interface to Python, and races.h watches every access to memory, in one of the builds.
//
// Differences from a GPU: threads run one at a time; the lanes of a warp are synchronised only where the source says so (as on
// all GPUs since Volta); a*b + c is rounded twice unless written as fma; the fast approximations (__expf) are the exact
// functions. Not implemented: textures, cooperative groups, asynchronous copies, tensor cores, inline PTX.
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <type_traits>

#include "block.h"

#if defined(__SANITIZE_THREAD__)
#include "races.h"
#else
namespace cpu {
static void check_launch_begins() {}
static void check_block_begins() {}
static void check_warp_synchronised(Thread*, unsigned) {}
static void check_atomic(const void*, unsigned long) {}
}  // namespace cpu
#endif

// ------------------------------------------------------------------------------------------------- declarations

#define __global__
#define __device__ __attribute__((unused))
#define __host__
#define __constant__ static const
#if defined(__SANITIZE_ADDRESS__)
#define __shared__ static  // AddressSanitizer puts red zones around it
#else
#define __shared__ thread_local  // static, and in a separate segment: block.h fills it, races.h watches it
#endif
#define __launch_bounds__(...)
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __align__(n) __attribute__((aligned(n)))
// npadv/kernels/cpu.py replaces `extern __shared__ T name[];`, which macros cannot translate to C++.

// Intrinsics are not checked for races. The default arguments CPU_CALLER are the file and line of the call.
#define CPU_INTRINSIC __attribute__((unused, noinline, no_sanitize("thread")))
#define CPU_CALLER const char *file = __builtin_FILE(), int line = __builtin_LINE()

// ------------------------------------------------------------------------------------------------ vector types

#define CPU_VECTORS(T, name, align2, align4)                                        \
  struct alignas(align2) name##2 { T x, y; };                                       \
  struct name##3 { T x, y, z; };                                                    \
  struct alignas(align4) name##4 { T x, y, z, w; };                                 \
  __device__ static inline name##2 make_##name##2(T x, T y) { return {x, y}; }      \
  __device__ static inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; } \
  __device__ static inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
CPU_VECTORS(float, float, 8, 16)
CPU_VECTORS(double, double, 16, 16)
CPU_VECTORS(int, int, 8, 16)
CPU_VECTORS(unsigned char, uchar, 2, 4)
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };

// ----------------------------------------------------------------------------------------- barriers and warps

CPU_INTRINSIC static void __syncthreads(CPU_CALLER) { cpu::barrier({file, line}); }
CPU_INTRINSIC static void __syncwarp(unsigned mask = 0xffffffffu, CPU_CALLER) {
  cpu::exchange("__syncwarp()", mask, 0, {file, line});
}
CPU_INTRINSIC static void __trap() { cpu::fault("__trap()"); }

namespace cpu {
// Returns the value of lane `source`. For a lane that took no part, where CUDA's result is undefined, it is NaN or -1.
template <class T>
CPU_INTRINSIC static T shuffle(const char* name, unsigned mask, T value, int source, SourceLine at) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable<T>::value, "a shuffle carries 4 or 8 bytes");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  exchange(name, mask, bits, at);
  bits = current->members >> source & 1 ? threads[(current - threads) / 32 * 32 + source].seen : ~uint64_t(0);
  memcpy(&value, &bits, sizeof value);
  return value;
}
CPU_INTRINSIC static unsigned ballot(const char* name, unsigned mask, int predicate, SourceLine at) {
  exchange(name, mask, predicate != 0, at);
  unsigned votes = 0;
  for (unsigned lane = 0; lane < 32; ++lane)
    if (current->members >> lane & 1) votes |= unsigned(threads[(current - threads) / 32 * 32 + lane].seen) << lane;
  return votes;
}
CPU_INTRINSIC static int lane() { return (current - threads) % 32; }
}  // namespace cpu

// A shuffle stays within groups of `width` lanes; a lane whose source would lie outside keeps its own value.
template <class T> CPU_INTRINSIC static T __shfl_sync(unsigned mask, T v, int source, int width = 32, CPU_CALLER) {
  return cpu::shuffle("__shfl_sync()", mask, v, (cpu::lane() & ~(width - 1)) + (source & (width - 1)), {file, line});
}
template <class T> CPU_INTRINSIC static T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32, CPU_CALLER) {
  const int lane = cpu::lane(), in_group = lane & (width - 1);
  return cpu::shuffle("__shfl_up_sync()", mask, v, in_group < int(by) ? lane : lane - int(by), {file, line});
}
template <class T> CPU_INTRINSIC static T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32, CPU_CALLER) {
  const int lane = cpu::lane(), in_group = lane & (width - 1);
  return cpu::shuffle("__shfl_down_sync()", mask, v, in_group + int(by) >= width ? lane : lane + int(by), {file, line});
}
template <class T> CPU_INTRINSIC static T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32, CPU_CALLER) {
  const int lane = cpu::lane(), source = lane ^ bits;
  return cpu::shuffle("__shfl_xor_sync()", mask, v, source >= (lane & ~(width - 1)) + width ? lane : source, {file, line});
}
CPU_INTRINSIC static unsigned __ballot_sync(unsigned mask, int predicate, CPU_CALLER) {
  return cpu::ballot("__ballot_sync()", mask, predicate, {file, line});
}
CPU_INTRINSIC static int __any_sync(unsigned mask, int predicate, CPU_CALLER) {
  return cpu::ballot("__any_sync()", mask, predicate, {file, line}) != 0;
}
CPU_INTRINSIC static int __all_sync(unsigned mask, int predicate, CPU_CALLER) {
  const unsigned votes = cpu::ballot("__all_sync()", mask, predicate, {file, line});
  return votes == cpu::current->members;
}

// ------------------------------------------------------------------------------------------------------ atomics

// Threads run one at a time, so reading and writing without a pause between them is atomic.
namespace cpu {
template <class T, class F> __attribute__((no_sanitize("thread"), noinline)) static T update(T* p, F change) {
  check_atomic(p, sizeof *p);
  const T old = *p;
  *p = change(old);
  return old;
}
template <class T> struct same { using type = T; };  // lets the second argument convert, as CUDA's signatures do
}  // namespace cpu
#define CPU_ATOMIC(name, expression) \
  template <class T> __device__ static T name(T* p, typename cpu::same<T>::type v) { \
    return cpu::update(p, [v](T old) -> T { return static_cast<void>(old), expression; }); \
  }
CPU_ATOMIC(atomicAdd, old + v)
CPU_ATOMIC(atomicExch, v)
#define CPU_INTEGER_ATOMIC(name, expression) CPU_ATOMIC(name, (static_cast<void>(old % 1), expression))
CPU_INTEGER_ATOMIC(atomicSub, old - v)
CPU_INTEGER_ATOMIC(atomicMin, v < old ? v : old)
CPU_INTEGER_ATOMIC(atomicMax, v > old ? v : old)
CPU_INTEGER_ATOMIC(atomicAnd, old & v)
CPU_INTEGER_ATOMIC(atomicOr, old | v)
CPU_INTEGER_ATOMIC(atomicXor, old ^ v)
template <class T>
__device__ static T atomicCAS(T* p, typename cpu::same<T>::type expected, typename cpu::same<T>::type v) {
  return cpu::update(p, [expected, v](T old) -> T { return old == expected ? v : old; });
}
__device__ static inline void __threadfence() {}
__device__ static inline void __threadfence_block() {}

// ---------------------------------------------------------------------------------------------------- functions

template <class T> __device__ static inline T __ldg(const T* p) { return *p; }
template <class T> __device__ static inline T min(T a, T b) { return b < a ? b : a; }
template <class T> __device__ static inline T max(T a, T b) { return a < b ? b : a; }
__device__ static inline float min(float a, float b) { return fminf(a, b); }  // as in CUDA: the argument that is not NaN
__device__ static inline float max(float a, float b) { return fmaxf(a, b); }
__device__ static inline double min(double a, double b) { return fmin(a, b); }
__device__ static inline double max(double a, double b) { return fmax(a, b); }
__device__ static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
__device__ static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
__device__ static inline float __fdividef(float a, float b) { return a / b; }
__device__ static inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
// The C library reserves the names __expf, __logf ..., so they are macros.
#define __expf(x) expf(x)
#define __logf(x) logf(x)
#define __powf(x, y) powf(x, y)
__device__ static inline int __float_as_int(float x) { int i; memcpy(&i, &x, sizeof i); return i; }
__device__ static inline float __int_as_float(int i) { float x; memcpy(&x, &i, sizeof x); return x; }
__device__ static inline unsigned __float_as_uint(float x) { unsigned i; memcpy(&i, &x, sizeof i); return i; }
__device__ static inline float __uint_as_float(unsigned i) { float x; memcpy(&x, &i, sizeof x); return x; }
__device__ static inline unsigned __umulhi(unsigned a, unsigned b) { return uint64_t(a) * b >> 32; }
__device__ static inline int __popc(unsigned x) { return __builtin_popcount(x); }
__device__ static inline int __ffs(int x) { return __builtin_ffs(x); }
__device__ static inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }

#include "launch.h"
