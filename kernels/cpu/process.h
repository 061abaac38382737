// A kernel as a separate program, for the build with AddressSanitizer and UndefinedBehaviorSanitizer: they must be in a
// process from its start, and they end it at the first error. argv[1] is a file with the launch, written by
// npadv/kernels/cpu.py. Every array is allocated separately, so that an access beyond its ends does not hit another array.
#pragma once
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>

namespace cpu {

static void say_where() {
  if (fibers::running)
    fprintf(stderr, "WHERE: block (%u, %u, %u), thread (%u, %u, %u)\n", blockIdx.x, blockIdx.y, blockIdx.z, current->index.x,
            current->index.y, current->index.z);
}
extern "C" __attribute__((visibility("default"))) void __ubsan_on_report() { say_where(); }  // libubsan calls it

template <class T> static T take(FILE* file) {
  T value;
  if (fread(&value, sizeof value, 1, file) != 1) fprintf(stderr, "the launch file ends early\n"), exit(2);
  return value;
}

struct Argument {
  uint32_t kind;   // 0: a number; 1: an array; 2: no array; 3: the same array as argument number `bytes`
  uint64_t bytes;
  char* data;
};

}  // namespace cpu

int main(int argc, char** argv) {
  using namespace cpu;
  __sanitizer_set_death_callback(say_where);
  FILE* file = argc == 2 ? fopen(argv[1], "r+b") : nullptr;
  if (!file) return fprintf(stderr, "usage: %s LAUNCH\n", argv[0]), 2;
  char name[128];
  for (char& c : name) c = take<char>(file);
  static Launch launch;
  for (unsigned* n : {launch.grid, launch.block})
    for (int i = 0; i < 3; ++i) n[i] = take<uint32_t>(file);
  launch.shared_bytes = take<uint32_t>(file);
  launch.order = take<uint32_t>(file);
  launch.seed = take<uint64_t>(file);
  launch.only_block = take<int64_t>(file);
  static Argument given[64];
  static void *pointers[64], *values[64];
  const uint32_t count = take<uint32_t>(file);
  for (uint32_t i = 0; i < count; ++i) {
    Argument& a = given[i];
    a.kind = take<uint32_t>(file);
    a.bytes = take<uint64_t>(file);
    if (a.kind < 2) {
      a.data = static_cast<char*>(malloc(a.bytes));
      if (a.bytes && fread(a.data, 1, a.bytes, file) != a.bytes) return fprintf(stderr, "the launch file ends early\n"), 2;
    }
    if (a.kind == 3) a.data = given[a.bytes].data;
    pointers[i] = a.data;
    values[i] = a.kind == 0 ? static_cast<void*>(a.data) : static_cast<void*>(&pointers[i]);
  }
  // The rest of the dynamic shared memory, beyond the size of this launch, must not be accessed.
  if (launch.shared_bytes < max_shared)
    ASAN_POISON_MEMORY_REGION(dynamic_shared + launch.shared_bytes, max_shared - launch.shared_bytes);
  for (Export* e = exports; e; e = e->next) {
    if (strcmp(e->name, name)) continue;
    arguments = values;
    run(&launch, e->call);
    rewind(file);
    fwrite(launch.message, sizeof launch.message, 1, file);
    for (uint32_t i = 0; i < count; ++i)
      if (given[i].kind == 1) fwrite(given[i].data, 1, given[i].bytes, file);
    return fclose(file) ? 2 : 0;
  }
  return fprintf(stderr, "no kernel %s\n", name), 2;
}
