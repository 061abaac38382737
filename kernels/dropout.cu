// Dropout with random numbers that are computed, not stored:
//
//   dropout           y[i] = x[i] * (factor if word(i) >= threshold else 0)       P(drop) = threshold / 2^32
//   dropout_advance   offset <- offset + draws
//
// word(i) is 32 random bits that anybody can compute at any time from (seed, offset + draw, i). So there is no mask to
// keep: the gradient, gx[i] = g[i] * (the same factor), is this kernel once more, run on g with the same numbers.
//
// The generator is Philox4x32-10 (Salmon, Moraes, Dror and Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3"): ten
// rounds of multiplying and mixing turn a 128-bit counter, under a 64-bit key, into 128 bits that pass for random. The
// key is the seed. The lower half of the counter is i / 4, and of the four words that come out, element i takes number
// i % 4; the upper half is offset + draw, so that two masks share no counter, whatever their sizes.
//
// Seed and offset are read from the device's memory when the kernel runs: state = {seed, offset}. A captured CUDA graph
// repeats its launches with the very same arguments; what changes between replays must be in memory. A training step
// with L dropout layers gives them the draws 0..L-1, forward and backward, and ends with dropout_advance(state, L).
//
// A thread computes one counter and handles its four elements: ten rounds are about 60 integer operations, which four
// elements share. NaN stays NaN and an infinity becomes NaN where dropped, since both are multiplied by 0: what is
// broken shows. What limits it is the memory, if the four neighbouring numbers are read in one go; the compiler reads
// them one by one, since nobody promised it that x begins at a multiple of 16 bytes. Promising that is the next step.

#ifndef real
#define real float  // -Dreal=double compiles the other precision
#endif

using word = unsigned int;
using pair = unsigned long long;  // of words

static __device__ long long first_index() { return (long long)blockIdx.x * blockDim.x + threadIdx.x; }
static __device__ long long all_threads() { return (long long)gridDim.x * blockDim.x; }

struct Words {
  word at[4];
};

static __device__ Words philox(pair low, pair high, pair key) {
  Words c = {{word(low), word(low >> 32), word(high), word(high >> 32)}};
  word k0 = word(key), k1 = word(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const pair even = pair(0xD2511F53) * c.at[0], odd = pair(0xCD9E8D57) * c.at[2];
    c = {{word(odd >> 32) ^ c.at[1] ^ k0, word(odd), word(even >> 32) ^ c.at[3] ^ k1, word(even)}};
    k0 += 0x9E3779B9, k1 += 0xBB67AE85;  // the golden ratio's and sqrt(3)'s digits
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

// One thread. A kernel of its own, since within dropout some block might still be reading the old offset.
extern "C" __global__ void dropout_advance(unsigned long long* state, unsigned long long draws) {
  if (first_index() == 0) state[1] += draws;
}
