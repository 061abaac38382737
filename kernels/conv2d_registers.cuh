// The inner loop of versions 3 and 4: a tile of BM x BN results, TM x TN of them in the registers of each thread.
//
// A value read from shared memory into a register is used TN times (if of A) or TM times (if of B). With 4 x 8, 12 values
// are read for 32 multiplications, four at a time, so in 3 reads. Version 2 has 2 reads for one multiplication.
//
// Two more ideas keep the loop from waiting:
//   - The next tiles are loaded from memory into registers while these are multiplied. Shared memory has two buffers for
//     each tile, used in turn, so that one barrier a tile is enough.
//   - The offset of each d (three divisions) is computed by one thread and kept in shared memory.
#include "conv2d.cuh"

constexpr int BK = 8;  // the depth of a tile

// Vector4 neighbours, read at once: 16 bytes are the widest access that there is (for double, two of them).
struct alignas(16) Vector4 {
  real v[4];
};

template <int BM, int BN, int TM, int TN>
struct Tile {
  static constexpr int threads = (BM / TM) * (BN / TN);
  static constexpr int a_loads = BM * BK / threads, b_loads = BN * BK / threads;  // elements of each tile that a thread loads
  static_assert(TM == 4 && TN % 4 == 0 && BM * BK % threads == 0 && threads % BN == 0 && threads % BK == 0, "");

  // Rows are 4 longer than the tile: threads that store a column then write to different banks of shared memory.
  struct alignas(16) Shared {
    real a[2][BK][BM + 4], b[2][BK][BN + 4];
    DepthOffset offsets[2][BK];
  };

  // Adds up the terms d_begin <= d < d_end of the results from row m0 and column n0 on: this block's tile.
  template <class Product>
  static __device__ void multiply(const Product& p, Shared& shared, int m0, int n0, int d_begin, int d_end, real (&sum)[TM][TN]) {
    const int t = threadIdx.x, rows = p.rows(), columns = p.columns();

    // The elements that this thread loads: of A always (m, d) with m = a_m + i * a_step, neighbours in d; of B either one
    // column and several d, or one d and several columns, so that neighbouring threads read neighbours in memory.
    constexpr bool along_depth = Product::depth_is_contiguous;
    constexpr int a_step = threads / BK, b_step = along_depth ? threads / BK : threads / BN;
    const int a_d = t % BK, a_m = t / BK;
    const int b_d = along_depth ? t % BK : t / BN, b_n = along_depth ? t / BK : t % BN;
    Offset column[along_depth ? b_loads : 1];
#pragma unroll
    for (int i = 0; i < (along_depth ? b_loads : 1); ++i) {
      const int n = n0 + b_n + i * b_step;
      column[i] = p.column_offset(n < columns ? n : 0);  // past the last column any will do: it is not written
    }
    real next_a[a_loads], next_b[b_loads];

    auto compute_offsets = [&](int d0, int buffer) {
      if (t < BK && d0 + t < d_end) shared.offsets[buffer][t] = p.depth_offset(d0 + t);
    };
    auto load = [&](int d0, int buffer) {
#pragma unroll
      for (int i = 0; i < a_loads; ++i) {
        const int m = m0 + a_m + i * a_step;
        next_a[i] = m < rows && d0 + a_d < d_end ? p.a(m, shared.offsets[buffer][a_d]) : real(0);
      }
#pragma unroll
      for (int i = 0; i < b_loads; ++i) {
        const int d = along_depth ? b_d : b_d + i * b_step;
        next_b[i] = d0 + d < d_end ? p.b(shared.offsets[buffer][d], column[along_depth ? i : 0]) : real(0);
      }
    };
    auto store = [&](int buffer) {
#pragma unroll
      for (int i = 0; i < a_loads; ++i) shared.a[buffer][a_d][a_m + i * a_step] = next_a[i];
#pragma unroll
      for (int i = 0; i < b_loads; ++i) {
        const int d = along_depth ? b_d : b_d + i * b_step, n = along_depth ? b_n + i * b_step : b_n;
        shared.b[buffer][d][n] = next_b[i];
      }
    };

    compute_offsets(d_begin, 0);
    compute_offsets(d_begin + BK, 1);
    __syncthreads();
    load(d_begin, 0);
    store(0);
    __syncthreads();
    int buffer = 0;
    for (int d0 = d_begin; d0 < d_end; d0 += BK, buffer ^= 1) {
      const bool more = d0 + BK < d_end;
      if (more) load(d0 + BK, buffer ^ 1);
      const int row = first_row(), first = first_column();
#pragma unroll
      for (int d = 0; d < BK; ++d) {
        const Vector4 a = *reinterpret_cast<const Vector4*>(&shared.a[buffer][d][row]);
        Vector4 b[TN / 4];
#pragma unroll
        for (int q = 0; q < TN / 4; ++q) b[q] = *reinterpret_cast<const Vector4*>(&shared.b[buffer][d][first + q * quarter]);
#pragma unroll
        for (int i = 0; i < TM; ++i)
#pragma unroll
          for (int j = 0; j < TN; ++j) sum[i][j] += a.v[i] * b[j / 4].v[j % 4];
      }
      if (more) store(buffer ^ 1);
      compute_offsets(d0 + 2 * BK, buffer);  // overwrites the offsets of the tile just multiplied: no longer needed
      __syncthreads();
    }
  }

  // A thread's TN columns lie in runs of four, a `quarter` apart: neighbouring threads then read neighbouring runs.
  static constexpr int quarter = BN / (TN / 4);
  static __device__ int first_row() { return int(threadIdx.x) / (BN / TN) * TM; }
  static __device__ int first_column() { return int(threadIdx.x) % (BN / TN) * 4; }
  static __device__ int column_of(int j) { return first_column() + j / 4 * quarter + j % 4; }
};
