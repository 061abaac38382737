// A convolution and its two gradients as products of two matrices: what versions 2, 3 and 4 multiply.
//
// For each group of channels and filters, with OP = OH*OW output pixels and IP = H*W input pixels,
//
//                   rows m    columns n        summed over d      A[m,d]                B[d,n]
//   Forward         filter    image, pixel     channel, kh, kw    w                     x under tap d of window n
//   InputGrad       channel   image, pixel     filter, kh, kw     w, read crosswise     g whose window has n under tap d
//   WeightGrad      filter    channel, kh, kw  image, pixel       g                     x under tap n of window d
//
// B is never stored (that would be im2col, and KH*KW times the image): this is implicit GEMM. A tile reads an element of B
// from the image itself. The element's address is a sum of two offsets, one known from d and one from n: the corner of a
// window, and the distance of a tap from the corner. Splitting n or d into its coordinates costs divisions, so it is done
// once for each n and each d, not for each element: depth_offset(d) and column_offset(n) return the two offsets, and
// b(depth, column) adds them.
//
// A tap over the padding gives 0 and is multiplied like any other. Where A is infinite or NaN the product is NaN; version 1
// skips such taps, so its result stays finite there.

#include "common.cuh"

struct ConvShapes {
  int N, C, H, W, K, KH, KW, OH, OW, sh, sw, ph, pw, dh, dw, groups;
};

// One of the two summands of an address in the image: where its plane begins, and a row and a column in the plane.
struct Offset {
  long long plane;
  int h, w;
};
struct DepthOffset : Offset {
  long long a;  // the index of A[0,d]
};

// Shared by Forward and WeightGrad: a tap, a window's corner, and the image element under the tap.
static __device__ inline Offset tap_of(const ConvShapes& s, int group, int i) {
  const int kw = i % s.KW, kh = i / s.KW % s.KH, c = i / s.KW / s.KH;
  return {(long long)(group * (s.C / s.groups) + c) * s.H * s.W, kh * s.dh, kw * s.dw};
}
static __device__ inline Offset corner_of(const ConvShapes& s, int i) {
  const int ow = i % s.OW, oh = i / s.OW % s.OH, n = i / s.OW / s.OH;
  return {(long long)n * s.C * s.H * s.W, oh * s.sh - s.ph, ow * s.sw - s.pw};
}
static __device__ inline real element(const ConvShapes& s, const real* x, const Offset& p, const Offset& q) {
  const int h = p.h + q.h, w = p.w + q.w;
  return h >= 0 && h < s.H && w >= 0 && w < s.W ? x[p.plane + q.plane + (long long)h * s.W + w] : real(0);
}

struct Forward {
  ConvShapes s;
  const real *x, *w, *bias;
  real* y;
  int relu, group;

  static constexpr bool depth_is_contiguous = false;  // whether neighbours in d are neighbours in memory, in B; else those in n
  __device__ int rows() const { return s.K / s.groups; }
  __device__ int columns() const { return s.N * s.OH * s.OW; }
  __device__ int depth() const { return s.C / s.groups * s.KH * s.KW; }
  __device__ DepthOffset depth_offset(int d) const {
    const Offset tap = tap_of(s, group, d);
    return {{tap.plane, tap.h, tap.w}, (long long)group * rows() * depth() + d};
  }
  __device__ Offset column_offset(int n) const { return corner_of(s, n); }
  __device__ real a(int m, const DepthOffset& p) const { return w[p.a + (long long)m * depth()]; }
  __device__ real b(const DepthOffset& p, const Offset& n) const { return element(s, x, p, n); }
  __device__ long long output_index(int m, int n) const {
    const int pixels = s.OH * s.OW;
    return ((long long)(n / pixels) * s.K + group * rows() + m) * pixels + n % pixels;
  }
  __device__ void write(int m, int n, real sum) const {
    if (bias) sum += bias[group * rows() + m];
    y[output_index(m, n)] = relu && sum < 0 ? real(0) : sum;
  }
};

struct InputGrad {
  ConvShapes s;
  const real *g, *w;
  real* gx;
  int group;

  static constexpr bool depth_is_contiguous = false;
  __device__ int rows() const { return s.C / s.groups; }
  __device__ int columns() const { return s.N * s.H * s.W; }
  __device__ int depth() const { return s.K / s.groups * s.KH * s.KW; }
  __device__ DepthOffset depth_offset(int d) const {
    const int tap = d % (s.KH * s.KW), k = group * (s.K / s.groups) + d / (s.KH * s.KW);
    return {{(long long)k * s.OH * s.OW, -(tap / s.KW * s.dh), -(tap % s.KW * s.dw)},
            (long long)k * rows() * s.KH * s.KW + tap};
  }
  __device__ Offset column_offset(int n) const {
    const int iw = n % s.W, ih = n / s.W % s.H, image = n / s.W / s.H;
    return {(long long)image * s.K * s.OH * s.OW, ih + s.ph, iw + s.pw};
  }
  __device__ real a(int m, const DepthOffset& p) const { return w[p.a + (long long)m * s.KH * s.KW]; }
  __device__ real b(const DepthOffset& p, const Offset& n) const {
    const int th = p.h + n.h, tw = p.w + n.w;  // oh*sh and ow*sw, if such oh and ow exist
    if (th < 0 || tw < 0) return 0;
    const int oh = s.sh == 1 ? th : th / s.sh, ow = s.sw == 1 ? tw : tw / s.sw;
    const bool exists = oh * s.sh == th && ow * s.sw == tw && oh < s.OH && ow < s.OW;
    return exists ? g[p.plane + n.plane + (long long)oh * s.OW + ow] : real(0);
  }
  __device__ long long output_index(int m, int n) const {
    const int pixels = s.H * s.W;
    return ((long long)(n / pixels) * s.C + group * rows() + m) * pixels + n % pixels;
  }
  __device__ void write(int m, int n, real sum) const { gx[output_index(m, n)] = sum; }
};

struct WeightGrad {
  ConvShapes s;
  const real *x, *g;
  real* gw;
  int group;

  static constexpr bool depth_is_contiguous = true;
  __device__ int rows() const { return s.K / s.groups; }
  __device__ int columns() const { return s.C / s.groups * s.KH * s.KW; }
  __device__ int depth() const { return s.N * s.OH * s.OW; }
  __device__ DepthOffset depth_offset(int d) const {
    const Offset corner = corner_of(s, d);
    const int pixels = s.OH * s.OW;
    return {{corner.plane, corner.h, corner.w},
            ((long long)(d / pixels) * s.K + group * rows()) * pixels + d % pixels};
  }
  __device__ Offset column_offset(int n) const { return tap_of(s, group, n); }
  __device__ real a(int m, const DepthOffset& p) const { return g[p.a + (long long)m * s.OH * s.OW]; }
  __device__ real b(const DepthOffset& p, const Offset& n) const { return element(s, x, p, n); }
  __device__ long long output_index(int m, int n) const { return (long long)(group * rows() + m) * columns() + n; }
  __device__ void write(int m, int n, real sum) const { gw[output_index(m, n)] = sum; }
};
