// The scheduler: runs the threads of a block to their ends, and reports a deadlock.
//
// It works in rounds. In a round every thread that is not waiting runs, one after another, until it returns from the kernel or
// waits. Then the complete barriers open, and the next round begins. The launch chooses the order of the threads in a round
// (forward, reverse, random): a correct kernel computes the same in all of them.
#pragma once
#include <link.h>

#include <cstdarg>
#include <cstdint>
#include <cstring>

#include "fibers.h"

struct uint3 { unsigned x, y, z; };
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
static uint3 threadIdx, blockIdx;
static dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace cpu {

constexpr unsigned max_threads = 1024, max_shared = 227 << 10;  // in a block: CUDA's limit, and Hopper's
enum Order { forward, reverse, shuffled };

// The settings and the result of a launch; Python fills in the settings (npadv/kernels/cpu.py).
struct Buffer { char* data; std::uint64_t bytes; const char* name; };
struct Launch {
  unsigned grid[3], block[3], shared_bytes;
  int order;
  std::uint64_t seed;
  std::int64_t only_block;  // run this block alone; -1: all
  const Buffer* buffers;    // the arrays that the kernel may touch
  int buffer_count;
  char message[1024];       // the fault; empty if there was none
};

struct SourceLine { const char* file; int line; };
enum State { ready, at_barrier, at_warp, returned };
struct Thread {
  fibers::Fiber fiber;
  uint3 index;
  State state;
  const char* operation;     // the operation that it waits in, and its source line
  SourceLine at;
  unsigned mask;             // at_warp: the lanes it waits for
  unsigned members;          // the lanes that took part
  std::uint64_t given, seen;  // its value in a warp's exchange, before and after the exchange is complete
};

static Thread threads[max_threads];
static unsigned thread_count;
static Thread* current;
static Launch* launch;
static void (*kernel)();       // calls the kernel with the launch's arguments
static unsigned barriers;      // the number of __syncthreads() that this block has passed
static unsigned blocks_run;    // counts from 1
static bool watching;          // the code of the kernel runs, not that of this file
alignas(128) static char dynamic_shared[max_shared];

// All __shared__ variables. They are the only thread-local variables of this library, so they fill its thread-local segment.
struct Memory { char *begin, *end; };
static Memory shared_memory;
extern "C" void* __tls_get_addr(void* module_and_offset);
static Memory find_shared_memory() {
  Memory found = {nullptr, nullptr};
#if !defined(__SANITIZE_ADDRESS__)
  auto look = [](dl_phdr_info* object, std::size_t, void* answer) {
    const char* here = reinterpret_cast<const char*>(&launch);
    bool mine = false;
    const ElfW(Phdr)* shared = nullptr;
    for (int i = 0; i < object->dlpi_phnum; ++i) {
      const ElfW(Phdr)& segment = object->dlpi_phdr[i];
      const char* begin = reinterpret_cast<const char*>(object->dlpi_addr + segment.p_vaddr);
      mine |= segment.p_type == PT_LOAD && here >= begin && here < begin + segment.p_memsz;
      if (segment.p_type == PT_TLS) shared = &segment;
    }
    if (!mine || !shared) return int(mine);
    std::size_t index[2] = {object->dlpi_tls_modid, 0};  // this call allocates the memory if it is the first
    char* begin = static_cast<char*>(__tls_get_addr(index));
    *static_cast<Memory*>(answer) = {begin, begin + shared->p_memsz};
    return 1;
  };
  dl_iterate_phdr(look, &found);
#endif
  return found;
}

// Called for the checker of races.h; empty in other builds.
static void check_launch_begins();
static void check_warp_synchronised(Thread* first, unsigned members);
static void check_block_begins();

// Stores a message and ends the launch. On a fiber it does not return.
static void fault(const char* format, ...) __attribute__((format(printf, 1, 2)));
static void fault(const char* format, ...) {
  watching = false;
  if (!launch->message[0]) {
    int n = std::snprintf(launch->message, sizeof launch->message, "block (%u, %u, %u)", blockIdx.x, blockIdx.y, blockIdx.z);
    if (fibers::running) {
      n += std::snprintf(launch->message + n, sizeof launch->message - n, ", thread (%u, %u, %u)", current->index.x,
                         current->index.y, current->index.z);
    }
    n += std::snprintf(launch->message + n, sizeof launch->message - n, ": ");
    va_list args;
    va_start(args, format);
    std::vsnprintf(launch->message + n, sizeof launch->message - n, format, args);
    va_end(args);
  }
  if (fibers::running) fibers::finish();
}

static std::uint64_t random_state;
static unsigned random_below(unsigned n) {
  random_state = random_state * 6364136223846793005u + 1442695040888963407u;
  return (random_state >> 33) % n;
}
static void arrange(unsigned* order, unsigned n) {
  for (unsigned i = 0; i < n; ++i) order[i] = launch->order == reverse ? n - 1 - i : i;
  if (launch->order != shuffled) return;
  for (unsigned i = n; i > 1; --i) {
    unsigned j = random_below(i), t = order[i - 1];
    order[i - 1] = order[j], order[j] = t;
  }
}

// -------------------------------------------------------------------------------------- called by the threads

static void wait(State state, const char* operation, SourceLine at) {
  watching = false;
  current->state = state, current->operation = operation, current->at = at;
  fibers::pause();
  watching = true;
}
static void barrier(SourceLine at) { wait(at_barrier, "__syncthreads()", at); }

// Waits for the lanes in mask; afterwards each lane can read the values of the others.
static void exchange(const char* operation, unsigned mask, std::uint64_t given, SourceLine at) {
  if (!(mask >> (current - threads) % 32 & 1))
    fault("%s at %s:%d: the thread's own lane is not in its mask %#x", operation, at.file, at.line, mask);
  current->mask = mask, current->given = given;
  wait(at_warp, operation, at);
}

static void thread_body() {
  watching = true;
  kernel();
  watching = false;
  current->state = returned;
  fibers::finish();
}

// ------------------------------------------------------------------------------------------- the scheduler

// Completes the warp operation that thread i waits in, if every lane of its mask that has not returned waits there too.
static bool open_warp(unsigned i) {
  Thread &t = threads[i], *first = threads + i / 32 * 32;
  unsigned members = 0;
  for (unsigned lane = 0; lane < 32; ++lane) {
    Thread& other = first[lane];
    if (!(t.mask >> lane & 1) || i / 32 * 32 + lane >= thread_count || other.state == returned) continue;
    if (other.state != at_warp || other.mask != t.mask || other.at.line != t.at.line ||
        std::strcmp(other.operation, t.operation) || std::strcmp(other.at.file, t.at.file)) return false;
    members |= 1u << lane;
  }
  for (unsigned lane = 0; lane < 32; ++lane)
    if (members >> lane & 1) first[lane].state = ready, first[lane].members = members, first[lane].seen = first[lane].given;
  if (!std::strcmp(t.operation, "__syncwarp()")) check_warp_synchronised(first, members);
  return true;
}

// All threads wait and no barrier is complete: reports how many threads wait where.
static void report_deadlock() {
  char text[700];
  int n = 0;
  unsigned gone = 0;
  bool counted[max_threads] = {};
  for (unsigned i = 0; i < thread_count; ++i) {
    if (threads[i].state == returned) { ++gone; continue; }
    if (counted[i] || n > 500) continue;
    unsigned here = 0;
    for (unsigned j = i; j < thread_count; ++j) {
      Thread &a = threads[i], &b = threads[j];
      if (b.state != a.state || b.at.line != a.at.line || std::strcmp(b.at.file, a.at.file)) continue;
      ++here, counted[j] = true;
    }
    n += std::snprintf(text + n, sizeof text - n, "%s%u of %u threads wait in %s at %s:%d", n ? ", " : "", here, thread_count,
                       threads[i].operation, threads[i].at.file, threads[i].at.line);
  }
  if (gone) std::snprintf(text + n, sizeof text - n, ", %u have returned", gone);
  fault("divergent barrier: %s", text);
}

static void poison(char* begin, char* end) {
  if (begin < end) std::memset(begin, 0xff, end - begin);  // NaN as float or double, -1 as an integer
}

static void run_block() {
  static unsigned order[max_threads];
  ++blocks_run, barriers = 0;
  poison(shared_memory.begin, shared_memory.end);
  poison(dynamic_shared, dynamic_shared + launch->shared_bytes);
  check_block_begins();
  for (unsigned i = 0; i < thread_count; ++i) {
    threads[i].state = ready;
    threads[i].index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
    fibers::start(threads[i].fiber, thread_body);
  }
  for (;;) {
    arrange(order, thread_count);
    for (unsigned i = 0; i < thread_count; ++i) {
      current = threads + order[i];
      if (current->state != ready) continue;
      threadIdx = current->index;
      fibers::resume(current->fiber);
      if (launch->message[0]) return;
    }
    bool opened = false, together = true;
    unsigned gone = 0, waiting = 0;
    for (unsigned i = 0; i < thread_count; ++i) {
      Thread& t = threads[i];
      if (t.state == returned) ++gone;
      if (t.state == at_warp && open_warp(i)) opened = true;
      if (t.state == at_barrier) {
        ++waiting;
        together &= t.at.line == threads[0].at.line && !std::strcmp(t.at.file, threads[0].at.file);
      }
    }
    if (opened) continue;
    if (gone == thread_count) return;
    if (waiting < thread_count || !together) return report_deadlock();
    ++barriers;
    for (unsigned i = 0; i < thread_count; ++i) threads[i].state = ready;
  }
}

// Runs a launch; returns 0, or 1 with the fault in launch->message.
static int run(Launch* given, void (*call)()) {
  launch = given, kernel = call;
  launch->message[0] = 0;
  random_state = launch->seed;
  gridDim = {launch->grid[0], launch->grid[1], launch->grid[2]};
  blockDim = {launch->block[0], launch->block[1], launch->block[2]};
  blockIdx = {0, 0, 0};
  thread_count = blockDim.x * blockDim.y * blockDim.z;
  blocks_run = 0;
  if (thread_count > max_threads) fault("%u threads a block, at most %u", thread_count, max_threads);
  if (launch->shared_bytes > max_shared) fault("%u bytes of shared memory a block, at most %u", launch->shared_bytes, max_shared);
  if (launch->message[0]) return 1;
  shared_memory = find_shared_memory();
  check_launch_begins();
  const unsigned count = gridDim.x * gridDim.y * gridDim.z;
  unsigned* order = static_cast<unsigned*>(std::malloc(count * sizeof(unsigned)));
  if (!order) return fault("no memory for the order of %u blocks", count), 1;
  arrange(order, count);
  for (unsigned i = 0; i < count && !launch->message[0]; ++i) {
    if (launch->only_block >= 0 && launch->only_block != order[i]) continue;
    blockIdx = {order[i] % gridDim.x, order[i] / gridDim.x % gridDim.y, order[i] / gridDim.x / gridDim.y};
    run_block();
  }
  std::free(order);
  return launch->message[0] != 0;
}

}  // namespace cpu
