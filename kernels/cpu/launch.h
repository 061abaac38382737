// The interface through which Python launches a kernel. npadv/kernels/cpu.py appends CPU_EXPORT(kernel) for each kernel of a
// file, which defines two functions: kernel_types() returns the types of the parameters, so that Python can compare them with
// the types that it read from the source; kernel_launch() takes a pointer to every argument, as cuLaunchKernel does.
#pragma once
#include <utility>

namespace cpu {

static void** arguments;

template <class T> struct Type;
#define CPU_TYPE(T) template <> struct Type<T> { static constexpr const char* name = #T; };
CPU_TYPE(float) CPU_TYPE(double) CPU_TYPE(int) CPU_TYPE(unsigned) CPU_TYPE(long long) CPU_TYPE(unsigned long long)
CPU_TYPE(unsigned char) CPU_TYPE(signed char) CPU_TYPE(bool)
template <class T> struct Type<const T> : Type<T> {};

template <class P> static void spell(char* text) {
  strcat(text, *text ? ", " : "");
  strcat(text, Type<std::remove_pointer_t<P>>::name);
  strcat(text, std::is_pointer<P>::value ? "*" : "");
}

template <auto kernel> struct Call;
template <class... P, void (*function)(P...)> struct Call<function> {
  template <std::size_t... i> __attribute__((no_sanitize("thread"))) static void unpack(std::index_sequence<i...>) {
    function(*static_cast<std::remove_cv_t<std::remove_reference_t<P>>*>(arguments[i])...);
  }
  static void with_arguments() { unpack(std::index_sequence_for<P...>()); }
  static const char* types() {
    static char text[2048];
    text[0] = 0;
    (spell<std::remove_cv_t<P>>(text), ...);
    return text;
  }
};

struct Export {  // for the program of process.h, which finds kernels by name
  const char* name;
  void (*call)();
  Export* next;
};
static Export* exports = nullptr;
struct Register : Export {
  Register(const char* name, void (*call)()) : Export{name, call, exports} { exports = this; }
};

}  // namespace cpu

#define CPU_EXPORT(kernel)                                                                                  \
  static cpu::Register cpu_register_##kernel(#kernel, cpu::Call<&kernel>::with_arguments);                  \
  extern "C" __attribute__((visibility("default"))) const char* kernel##_types() {                          \
    return cpu::Call<&kernel>::types();                                                                     \
  }                                                                                                         \
  extern "C" __attribute__((visibility("default"))) int kernel##_launch(cpu::Launch* launch, void** args) { \
    cpu::arguments = args;                                                                                  \
    return cpu::run(launch, cpu::Call<&kernel>::with_arguments);                                            \
  }
