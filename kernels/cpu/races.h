// A checker of every access to memory: finds races, reads of uninitialised shared memory, and accesses out of bounds.
//
// g++ -fsanitize=thread inserts a call before every load and store (__tsan_read4(p), __tsan_write8(p) ...). The usual library
// behind those calls handles the threads of the operating system; this file handles blocks, warps and barriers. Two accesses
// to a byte by different threads, one of them a write, are a race unless something orders them:
//
//   - within a block, a __syncthreads() between them;
//   - within a warp, a __syncwarp() between them that both lanes took part in;
//   - both are atomic.
//
// Nothing orders accesses of different blocks. The rules do not depend on timing, so one run in any order finds races that
// a GPU shows once in a million runs. The checker stores for each byte its last write and two readers. It can miss the race
// of a write with a third reader, if the two stored readers are ordered before the write; only __syncwarp makes this possible.
//
// Shared memory must be written in a block before it is read there. Global memory may be read at once: the caller filled it.
#pragma once

namespace cpu {

#define CPU_UNCHECKED __attribute__((no_sanitize("thread"), unused))

struct Access {
  unsigned block = 0;    // counting from 1; 0: none yet
  unsigned barrier = 0;  // number of the block's barriers before it
  unsigned clock = 0;    // number of the thread's __syncwarp before it
  unsigned short thread = 0;
  bool atomic = false;
  const void* code = nullptr;
};
struct Byte {
  Access write, read[2];
};
struct Region {
  const char *begin, *end, *name;
  bool shared;
  Byte* bytes;
};

static Region regions[40];
static int region_count = 0;
static Region* last_region;
// clocks[t][lane]: the number of __syncwarp of that lane that are certainly over for thread t of the same warp.
static unsigned clocks[max_threads][32];

// The addresses of this library: constants and threadIdx lie there, which are not the kernel's data.
extern "C" char __ehdr_start[] __attribute__((visibility("hidden")));
extern "C" char _end[] __attribute__((visibility("hidden")));

static void add_region(const char* begin, uint64_t bytes, const char* name, bool shared) {
  if (!bytes || region_count == int(sizeof regions / sizeof *regions)) return;
  void* shadow = mmap(nullptr, bytes * sizeof(Byte), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (shadow == MAP_FAILED) perror("no memory to watch an array"), abort();
  regions[region_count++] = {begin, begin + bytes, name, shared, static_cast<Byte*>(shadow)};
}

static void check_launch_begins() {
  for (int i = 0; i < region_count; ++i) munmap(regions[i].bytes, (regions[i].end - regions[i].begin) * sizeof(Byte));
  region_count = 0;
  add_region(shared_memory.begin, shared_memory.end - shared_memory.begin, "shared memory", true);
  add_region(dynamic_shared, launch->shared_bytes, "dynamic shared memory", true);
  for (int i = 0; i < launch->buffer_count; ++i) add_region(launch->buffers[i].data, launch->buffers[i].bytes, launch->buffers[i].name, false);
  last_region = regions;
}
static void check_block_begins() { memset(clocks, 0, sizeof clocks); }

static void check_warp_synchronised(Thread* first, unsigned members) {
  unsigned newest[32] = {};
  const int t0 = first - threads;
  for (int lane = 0; lane < 32; ++lane) {
    if (!(members >> lane & 1)) continue;
    ++clocks[t0 + lane][lane];
    for (int k = 0; k < 32; ++k)
      if (clocks[t0 + lane][k] > newest[k]) newest[k] = clocks[t0 + lane][k];
  }
  for (int lane = 0; lane < 32; ++lane)
    if (members >> lane & 1) memcpy(clocks[t0 + lane], newest, sizeof newest);
}

// Whether `before` is certainly over when `now` happens.
CPU_UNCHECKED static bool ordered(const Access& before, const Access& now) {
  if (!before.block) return true;
  if (before.block != now.block) return false;
  if (before.thread == now.thread || before.barrier < now.barrier) return true;
  return before.thread / 32 == now.thread / 32 && clocks[now.thread][before.thread % 32] > before.clock;
}

CPU_UNCHECKED static Region* region_of(const char* p) {
  if (p >= last_region->begin && p < last_region->end) return last_region;
  for (int i = 0; i < region_count; ++i)
    if (p >= regions[i].begin && p < regions[i].end) return last_region = regions + i;
  return nullptr;
}

// Python replaces [code ...] by file and line, by calling addr2line.
static long offset(const void* code) { return static_cast<const char*>(code) - __ehdr_start; }

static void report_race(const Region& r, const char* p, const Access& before, bool before_writes, const Access& now, bool now_writes) {
  auto how = [](const Access& a, bool writes) { return a.atomic ? "updates (atomically)" : writes ? "writes" : "reads"; };
  const unsigned b = before.block - 1, t = before.thread;
  char who[80];
  if (before.block == now.block) snprintf(who, sizeof who, "thread %u of the same block", t);
  else snprintf(who, sizeof who, "thread %u of the block run %u blocks before", t, now.block - 1 - b);
  fault("race on %s, byte %ld: this thread %s it at [code %lx], and %s %s it at [code %lx], with nothing to order the two",
        r.name, long(p - r.begin), how(now, now_writes), offset(now.code), who, how(before, before_writes), offset(before.code));
}

static void report_out_of_bounds(const char* p, unsigned long n, bool writes, const void* code) {
  const Region* nearest = nullptr;
  long distance = 0;
  for (int i = 0; i < region_count; ++i) {
    const long d = p < regions[i].begin ? regions[i].begin - p : p - regions[i].end;
    if (!nearest || d < distance) nearest = regions + i, distance = d;
  }
  if (!nearest) return fault("out of bounds: %s %lu bytes of no array at [code %lx]", writes ? "writes" : "reads", n, offset(code));
  fault("out of bounds: %s %lu bytes at [code %lx], %ld bytes %s %s, which has %ld", writes ? "writes" : "reads", n, offset(code),
        distance, p < nearest->begin ? "before the begin of" : "past the end of", nearest->name, long(nearest->end - nearest->begin));
}

CPU_UNCHECKED static void check_access(const void* address, unsigned long n, bool writes, bool atomic, const void* code) {
  const char* p = static_cast<const char*>(address);
  if (p >= fibers::running->stack && p < fibers::running->stack + fibers::stack_bytes) return;
  Region* r = region_of(p);
  if (!r) {
    const bool dynamic = p >= dynamic_shared && p < dynamic_shared + max_shared;
    if (p >= __ehdr_start && p < _end && !dynamic) return;
    return report_out_of_bounds(p, n, writes, code);
  }
  if (p + n > r->end) return report_out_of_bounds(r->end, p + n - r->end, writes, code);
  const unsigned thread = current - threads;
  Access now;
  now.block = blocks_run, now.barrier = barriers, now.thread = thread, now.clock = clocks[thread][thread % 32];
  now.atomic = atomic, now.code = code;
  for (; n; --n, ++p) {
    Byte& byte = r->bytes[p - r->begin];
    if (r->shared) {  // accesses of another block were to other memory
      if (byte.write.block != now.block) byte.write = Access();
      for (Access& read : byte.read) if (read.block != now.block) read = Access();
      if (!byte.write.block && (!writes || atomic)) {
        return fault("uninitialised: reads %s, byte %ld, at [code %lx], which no thread of this block has written", r->name,
                     long(p - r->begin), offset(code));
      }
    }
    if (!ordered(byte.write, now) && !(byte.write.atomic && atomic)) return report_race(*r, p, byte.write, true, now, writes);
    if (writes) {
      for (const Access& read : byte.read)
        if (!ordered(read, now)) return report_race(*r, p, read, false, now, true);
      byte.write = now, byte.read[0] = byte.read[1] = Access();
    } else {
      byte.read[!ordered(byte.read[0], now)] = now;
    }
  }
}
CPU_UNCHECKED static void watch(const void* p, unsigned long n, bool writes, bool atomic, const void* code) {
  if (!watching) return;
  watching = false;  // the compiler inserts calls into some of the checker's code too
  check_access(p, n, writes, atomic, code);
  watching = true;
}
CPU_UNCHECKED static void check_atomic(const void* p, unsigned long n) { watch(p, n, true, true, __builtin_return_address(0)); }

}  // namespace cpu

// The functions that g++ calls.
#define CPU_WATCH(n)                                                                                       \
  extern "C" CPU_UNCHECKED void __tsan_read##n(void* p) {                            \
    cpu::watch(p, n, false, false, __builtin_return_address(0));                                    \
  }                                                                                                        \
  extern "C" CPU_UNCHECKED void __tsan_write##n(void* p) {                           \
    cpu::watch(p, n, true, false, __builtin_return_address(0));                                     \
  }
CPU_WATCH(1) CPU_WATCH(2) CPU_WATCH(4) CPU_WATCH(8) CPU_WATCH(16)
extern "C" CPU_UNCHECKED void __tsan_read_range(void* p, unsigned long n) {
  cpu::watch(p, n, false, false, __builtin_return_address(0));
}
extern "C" CPU_UNCHECKED void __tsan_write_range(void* p, unsigned long n) {
  cpu::watch(p, n, true, false, __builtin_return_address(0));
}
extern "C" CPU_UNCHECKED void __tsan_func_entry(void*) {}
extern "C" CPU_UNCHECKED void __tsan_func_exit() {}
extern "C" CPU_UNCHECKED void __tsan_init() {}
