// Dropout with random numbers that are computed, not stored:
//
//   y[i] = x[i] * (factor if word(i) >= threshold else 0)       P(drop) = threshold / 2^32
//
// word(i) is 32 random bits, a function of (seed, offset + draw, i). So no mask is stored: the gradient,
// gx[i] = g[i] * (the same factor), is this kernel once more, run on g with the same seed, offset and draw.
//
// The generator is Philox4x32-10 (Salmon, Moraes, Dror and Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3"): ten
// rounds of multiplying and mixing turn a 128-bit counter and a 64-bit key into 128 bits that pass the tests of
// randomness. The key is the seed. The lower half of the counter is i / 4, and element i uses word i % 4 of the four that
// result; the upper half is offset + draw, so two masks share no counter, whatever their sizes.
//
// Seed and offset are read from the device's memory when the kernel runs: state = {seed, offset}. A captured CUDA graph
// repeats its launches with the same arguments, so numbers that change between replays must be in memory. A training
// step with L dropout layers gives them the draws 0..L-1, forward and backward, and adds L to the offset at its end.
//
// A thread computes the words of one counter and applies them to four elements, so that these share the ten rounds, about
// 60 integer operations. Where an element is dropped it is multiplied by 0: NaN stays NaN and an infinity becomes NaN, so
// a broken network stays visible. What limits the kernel: it reads its four neighbouring numbers one by one, because the
// compiler cannot assume that x begins at a multiple of 16 bytes. Reading four at once would leave only memory's limit.

#include "common.cuh"

using word = unsigned int;
using pair = unsigned long long;  // of words

struct Words {
  word at[4];
};

static __device__ Words philox(pair low, pair high, pair key) {
  Words c = {{word(low), word(low >> 32), word(high), word(high >> 32)}};
  word k0 = word(key), k1 = word(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const pair even = pair(0xD2511F53) * c.at[0], odd = pair(0xCD9E8D57) * c.at[2];
    c = {{word(odd >> 32) ^ c.at[1] ^ k0, word(odd), word(even >> 32) ^ c.at[3] ^ k1, word(even)}};
    k0 += 0x9E3779B9, k1 += 0xBB67AE85;  // digits of the golden ratio and of sqrt(3)
  }
  return c;
}

extern "C" __global__ void dropout(const real* x, real* y, const unsigned long long* state, unsigned long long draw,
                                   unsigned int threshold, real factor, long long n) {
  const pair key = state[0], high = state[1] + draw;
  for (long long i = first_index(); 4 * i < n; i += all_threads()) {
    const Words words = philox(i, high, key);
    for (int j = 0; j < 4 && 4 * i + j < n; ++j)
      y[4 * i + j] = x[4 * i + j] * (words.at[j] >= threshold ? factor : real(0));
  }
}
