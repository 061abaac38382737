// Fibers: functions that can pause in the middle, each with its own stack.
//
//     fibers::Fiber f;
//     fibers::start(f, work);      // f will run work()
//     fibers::resume(f);           // runs it until it pauses ...
//     fibers::resume(f);           // ... and continues from there
//     void work() { step_1(); fibers::pause(); step_2(); fibers::finish(); }
//
// A CUDA block is up to 1024 threads that wait for each other at barriers. As operating system threads on one core a
// barrier of 256 takes half a millisecond; as fibers it is 256 function calls. All fibers run on the thread that
// resumes them, one at a time. So nothing else runs between two pauses: no locks are needed, and every run has the same order.
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
// The registers that a function must preserve are pushed on the stack, so the position of the stack is the whole state.
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
  // From the top: the address that run would return to (it never does), run itself, six registers to pop.
  void** top = reinterpret_cast<void**>(stack + stack_bytes);
  top[-1] = nullptr;
  top[-2] = reinterpret_cast<void*>(run);  // run begins with the stack at top - 1: 8 bytes past a multiple of 16, as after a call
  for (int i = 3; i < 9; ++i) top[-i] = nullptr;
  context = top - 8;
}
#else
// The same by the C library; some twenty times slower, because it saves the signal mask by a system call.
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

static Context hub;              // the code that resumed the running fiber
static Fiber* running = nullptr;

// AddressSanitizer follows the stack pointer and must be informed of every switch.
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

// Makes f ready to run work() from its beginning. Stacks are kept and reused.
static void start(Fiber& f, void (*work)()) {
  if (!f.stack) {
    void* p = mmap(nullptr, page + stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED || mprotect(p, page, PROT_NONE)) std::perror("no memory for a thread's stack"), std::abort();
    f.stack = static_cast<char*>(p) + page;  // below it a page that faults, so that an overflow does not reach another stack
  }
  body = work;
  prepare(f.context, f.stack, enter);
}

// Runs f until it pauses or finishes; called from outside any fiber.
static void resume(Fiber& f) {
  running = &f;
  leaving(f.stack, stack_bytes);
  fibers_switch(&hub, &f.context);
  arrived(false);
  running = nullptr;
}

// Returns to the code that resumed this fiber; comes back at the next resume.
static void pause() {
  Fiber* self = running;
  to_hub();
  fibers_switch(&self->context, &hub);
  arrived(true);
}

// Pauses forever.
[[noreturn]] static void finish() {
  pause();
  std::abort();
}

}  // namespace fibers
