// The inner loop of versions 3 and 4: a tile of BM x BN results, TM x TN of them in the registers of each thread.
//
// A value read from shared memory is used TN (of A) or TM (of B) times from a register: with 4 x 8, 12 values are read
// for 32 multiplications, and read four at a time, so there are 3 loads. Version 2 had 2 loads for one multiplication.
//
// Two more ideas keep the loop from waiting:
//   - The next tile is on its way from memory, into registers, while this one is multiplied; and shared memory holds two
//     tiles in turn, so that one barrier a tile is enough.
//   - Which image element d stands for (three divisions) is worked out by one thread and kept in shared memory.
#include "conv2d.cuh"

constexpr int BK = 8;  // depth of a tile

// Four neighbours, loaded at once: 16 bytes is the widest load there is, two of them for double.
struct alignas(16) Four {
  real v[4];
};

template <int BM, int BN, int TM, int TN>
struct Tile {
  static constexpr int threads = (BM / TM) * (BN / TN);
  static constexpr int a_loads = BM * BK / threads, b_loads = BN * BK / threads;  // elements a thread brings, each tile
  static_assert(TM == 4 && TN % 4 == 0 && BM * BK % threads == 0 && threads % BN == 0 && threads % BK == 0, "");

  // Rows are 4 longer than they need be: threads that store a column then meet different banks of shared memory.
  struct alignas(16) Shared {
    real a[2][BK][BM + 4], b[2][BK][BN + 4];
    Place places[2][BK];
  };

  // Add up the terms d_begin <= d < d_end of this block's tile, row m0 and column n0 first.
  template <class Product>
  static __device__ void multiply(const Product& p, Shared& shared, int m0, int n0, int d_begin, int d_end, real (&sum)[TM][TN]) {
    const int t = threadIdx.x, rows = p.rows(), columns = p.columns();

    // What this thread loads: of A always (m, d) with m = a_m + i * a_step, neighbours in d; of B either one column and
    // some d, or one d and some columns, whichever makes neighbouring threads read neighbours in memory.
    constexpr bool along_depth = Product::depth_is_contiguous;
    constexpr int a_step = threads / BK, b_step = along_depth ? threads / BK : threads / BN;
    const int a_d = t % BK, a_m = t / BK;
    const int b_d = along_depth ? t % BK : t / BN, b_n = along_depth ? t / BK : t % BN;
    Half column[along_depth ? b_loads : 1];
#pragma unroll
    for (int i = 0; i < (along_depth ? b_loads : 1); ++i) {
      const int n = n0 + b_n + i * b_step;
      column[i] = p.column(n < columns ? n : 0);  // past the last column any will do: it is not written
    }
    real next_a[a_loads], next_b[b_loads];

    auto find_places = [&](int d0, int half) {
      if (t < BK && d0 + t < d_end) shared.places[half][t] = p.place(d0 + t);
    };
    auto load = [&](int d0, int half) {
#pragma unroll
      for (int i = 0; i < a_loads; ++i) {
        const int m = m0 + a_m + i * a_step;
        next_a[i] = m < rows && d0 + a_d < d_end ? p.a(m, shared.places[half][a_d]) : real(0);
      }
#pragma unroll
      for (int i = 0; i < b_loads; ++i) {
        const int d = along_depth ? b_d : b_d + i * b_step;
        next_b[i] = d0 + d < d_end ? p.b(shared.places[half][d], column[along_depth ? i : 0]) : real(0);
      }
    };
    auto store = [&](int half) {
#pragma unroll
      for (int i = 0; i < a_loads; ++i) shared.a[half][a_d][a_m + i * a_step] = next_a[i];
#pragma unroll
      for (int i = 0; i < b_loads; ++i) {
        const int d = along_depth ? b_d : b_d + i * b_step, n = along_depth ? b_n + i * b_step : b_n;
        shared.b[half][d][n] = next_b[i];
      }
    };

    find_places(d_begin, 0);
    find_places(d_begin + BK, 1);
    __syncthreads();
    load(d_begin, 0);
    store(0);
    __syncthreads();
    int half = 0;
    for (int d0 = d_begin; d0 < d_end; d0 += BK, half ^= 1) {
      const bool more = d0 + BK < d_end;
      if (more) load(d0 + BK, half ^ 1);
      const int row = first_row(), first = first_column();
#pragma unroll
      for (int d = 0; d < BK; ++d) {
        const Four a = *reinterpret_cast<const Four*>(&shared.a[half][d][row]);
        Four b[TN / 4];
#pragma unroll
        for (int q = 0; q < TN / 4; ++q) b[q] = *reinterpret_cast<const Four*>(&shared.b[half][d][first + q * quarter]);
#pragma unroll
        for (int i = 0; i < TM; ++i)
#pragma unroll
          for (int j = 0; j < TN; ++j) sum[i][j] += a.v[i] * b[j / 4].v[j % 4];
      }
      if (more) store(half ^ 1);
      find_places(d0 + 2 * BK, half);  // those there were of the tile just multiplied, loaded long ago
      __syncthreads();
    }
  }

  // A thread's TN columns lie in runs of four, a `quarter` apart: neighbouring threads then read neighbouring runs.
  static constexpr int quarter = BN / (TN / 4);
  static __device__ int first_row() { return int(threadIdx.x) / (BN / TN) * TM; }
  static __device__ int first_column() { return int(threadIdx.x) % (BN / TN) * 4; }
  static __device__ int column_of(int j) { return first_column() + j / 4 * quarter + j % 4; }
};
