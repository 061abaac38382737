// Fibers: functions that can stop in the middle, each on a stack of its own.
//
//     fibers::Fiber f;
//     fibers::start(f, work);      // f will run work()
//     fibers::resume(f);           // runs it until it pauses ...
//     fibers::resume(f);           // ... and goes on from there
//     void work() { step_1(); fibers::pause(); step_2(); fibers::finish(); }
//
// A CUDA block is up to 1024 threads that wait for each other at barriers. As operating system threads on one core a
// barrier of 256 takes half a millisecond; as fibers it is 256 function calls. All fibers run on the thread that
// resumes them, one at a time, so between two pauses nothing else happens: no locks, and the same order each run.
#pragma once
#include <sys/mman.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace fibers {

constexpr std::size_t page = 4096, stack_bytes = 256 << 10;  // a stack is backed by memory only where it was touched

#if defined(__x86_64__) && !defined(PORTABLE_FIBERS)
// What a function must preserve is on the stack; the rest of the fiber's state is where that stack is.
using Context = void*;
extern "C" void fibers_switch(Context* save, Context* load);
asm(".text\n.local fibers_switch\n.type fibers_switch, @function\n"
    "fibers_switch:\n"
    "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  movq %rsp, (%rdi)\n"
    "  movq (%rsi), %rsp\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
    "  ret\n.size fibers_switch, . - fibers_switch\n");

static void prepare(Context& context, char* stack, void (*run)()) {
  // From the top: where run would return to (it does not), run itself, six registers to pop.
  void** top = reinterpret_cast<void**>(stack + stack_bytes);
  top[-1] = nullptr;
  top[-2] = reinterpret_cast<void*>(run);  // run begins with the stack at top - 1: 8 past 16 bytes, as after a call
  for (int i = 3; i < 9; ++i) top[-i] = nullptr;
  context = top - 8;
}
#else
// The same in the C library's words; some twenty times slower, for it saves the signal mask by a system call.
}  // namespace fibers
#include <ucontext.h>
namespace fibers {
using Context = ucontext_t;
static void fibers_switch(Context* save, Context* load) { swapcontext(save, load); }
static void prepare(Context& context, char* stack, void (*run)()) {
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = stack_bytes;
  context.uc_link = nullptr;
  makecontext(&context, run, 0);
}
#endif

struct Fiber {
  Context context;
  char* stack = nullptr;
};

static Context hub;              // who resumed the fiber that is running
static Fiber* running = nullptr;

// AddressSanitizer follows the stack pointer and must be told of every switch.
#if defined(__SANITIZE_ADDRESS__)
static const void* hub_stack;
static std::size_t hub_stack_bytes;
static void leaving(const void* stack, std::size_t bytes) { __sanitizer_start_switch_fiber(nullptr, stack, bytes); }
static void arrived(bool on_fiber) {
  if (on_fiber) __sanitizer_finish_switch_fiber(nullptr, &hub_stack, &hub_stack_bytes);
  else __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
}
static void to_hub() { leaving(hub_stack, hub_stack_bytes); }
#else
static void leaving(const void*, std::size_t) {}
static void arrived(bool) {}
static void to_hub() {}
#endif

static void (*body)();
static void enter() {
  arrived(true);
  body();
  std::abort();  // a body ends by finish()
}

// Make f ready to run work() from its beginning. Stacks are kept and used again.
static void start(Fiber& f, void (*work)()) {
  if (!f.stack) {
    void* p = mmap(nullptr, page + stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED || mprotect(p, page, PROT_NONE)) std::perror("no memory for a thread's stack"), std::abort();
    f.stack = static_cast<char*>(p) + page;  // below it a page that faults, so that an overflow hits no neighbour
  }
  body = work;
  prepare(f.context, f.stack, enter);
}

// Run f until it pauses or finishes; called from outside any fiber.
static void resume(Fiber& f) {
  running = &f;
  leaving(f.stack, stack_bytes);
  fibers_switch(&hub, &f.context);
  arrived(false);
  running = nullptr;
}

// Go back to whoever resumed this fiber; returns at the next resume.
static void pause() {
  Fiber* self = running;
  to_hub();
  fibers_switch(&self->context, &hub);
  arrived(true);
}

// As pause, for good.
[[noreturn]] static void finish() {
  pause();
  std::abort();
}

}  // namespace fibers
