// Convolution in two dimensions and its two gradients, version 1: one thread computes one element directly from the definition.
//
// What neural networks call convolution is cross-correlation: the filter w slides over the image x unflipped.
//
//   y[n,k,oh,ow] = sum over c, kh, kw of  x[n,c,ih,iw] * w[k,c,kh,kw]     where  ih = oh*sh - ph + kh*dh
//                                                                                iw = ow*sw - pw + kw*dw
//
// with strides s, paddings p (x is zero outside the image) and dilations d. Everything else follows from the line that
// ties ih to oh and kh, and its twin for the width. For y is linear in x and in w, so given g = dL/dy each gradient is a
// sum of products over the same triples (oh, kh, ih), collected by another of the three.
//
//   dL/dx[n,c,ih,iw] = sum over k, kh, kw of  g[n,k,oh,ow] * w[k,c,kh,kw]     where  oh = (ih + ph - kh*dh) / sh,
//                                             if sh divides it and 0 <= oh < OH; the same for ow
//   dL/dw[k,c,kh,kw] = sum over n, oh, ow of  g[n,k,oh,ow] * x[n,c,ih,iw]
//
// With groups, channels and filters are cut into that many equal parts, and filter k sees only the channels of its
// own part; w is (K, C/groups, KH, KW), and its c counts inside the part.
//
// All three kernels gather: a thread finds the products that contribute to its element, adds them up in a register and
// writes once. No two threads write the same address, so no atomics are needed, and the order of the additions, hence
// every bit, is the same on every run.
//
// What limits this version is memory. Each product loads both its factors, 8 bytes for 2 operations, and forgets
// them, though its neighbours need the same ones: x[n,c,ih,iw] is loaded for up to KH*KW windows and K filters. The
// caches hide part of that (neighbouring threads differ in ow, so they read neighbouring x and one and the same w),
// but a GPU can do a dozen operations in the time it takes to load a byte, so it mostly waits. Version 2 loads a tile once
// and uses it many times. The weight gradient has a second fault: its elements are few (a layer of
// 32 filters of 5x5 on one channel has 800) and their sums are long (N*OH*OW), so most of the GPU has no work.
// Version 4 mends that.
//
// The forward kernel also does the layer's next two operations, while the sum is still in a register: it adds the filter's
// bias, if there is one, and applies ReLU if relu is not 0.

#include "common.cuh"

// The index of element [a,b,c,d] of a contiguous array of shape (any, B, C, D). 64 bits: a batch may have over 2^31 elements.
static __device__ long long at(int a, int b, int c, int d, int B, int C, int D) {
  return (((long long)a * B + b) * C + c) * D + d;
}

// y = x * w:  x (N, C, H, W),  w (K, C/groups, KH, KW),  bias (K) or null,  y (N, K, OH, OW); one thread per y[n,k,oh,ow].
extern "C" __global__ void conv2d_forward(const real* x, const real* w, const real* bias, real* y,
                                          int N, int C, int H, int W, int K, int KH, int KW, int OH, int OW,
                                          int sh, int sw, int ph, int pw, int dh, int dw, int groups, int relu) {
  const int CG = C / groups, KG = K / groups;  // channels and filters of one group
  const long long total = (long long)N * K * OH * OW;
  for (long long i = first_index(); i < total; i += all_threads()) {
    const int ow = i % OW, oh = i / OW % OH, k = i / OW / OH % K, n = i / OW / OH / K;
    const int c0 = k / KG * CG;  // the first channel of this filter's group
    real sum = 0;
    for (int c = 0; c < CG; ++c)
      for (int kh = 0; kh < KH; ++kh)
        for (int kw = 0; kw < KW; ++kw) {
          const int ih = oh * sh - ph + kh * dh, iw = ow * sw - pw + kw * dw;
          if (ih < 0 || ih >= H || iw < 0 || iw >= W) continue;  // padding: x is zero there
          sum += x[at(n, c0 + c, ih, iw, C, H, W)] * w[at(k, c, kh, kw, CG, KH, KW)];
        }
    if (bias) sum += bias[k];
    y[i] = relu && sum < 0 ? real(0) : sum;  // not sum > 0 ? sum : 0, which would turn NaN into zero
  }
}

// gx = dL/dx from g = dL/dy and w; one thread per gx[n,c,ih,iw].
extern "C" __global__ void conv2d_input_grad(const real* g, const real* w, real* gx,
                                             int N, int C, int H, int W, int K, int KH, int KW, int OH, int OW,
                                             int sh, int sw, int ph, int pw, int dh, int dw, int groups) {
  const int CG = C / groups, KG = K / groups;
  const long long total = (long long)N * C * H * W;
  for (long long i = first_index(); i < total; i += all_threads()) {
    const int iw = i % W, ih = i / W % H, c = i / W / H % C, n = i / W / H / C;
    const int k0 = c / CG * KG;  // the first filter that sees this channel
    real sum = 0;
    for (int k = k0; k < k0 + KG; ++k)
      for (int kh = 0; kh < KH; ++kh)
        for (int kw = 0; kw < KW; ++kw) {
          const int th = ih + ph - kh * dh, tw = iw + pw - kw * dw;  // oh*sh and ow*sw, if such oh and ow exist
          if (th < 0 || th % sh || th / sh >= OH || tw < 0 || tw % sw || tw / sw >= OW) continue;
          sum += g[at(n, k, th / sh, tw / sw, K, OH, OW)] * w[at(k, c % CG, kh, kw, CG, KH, KW)];
        }
    gx[i] = sum;
  }
}

// gw = dL/dw from x and g = dL/dy; one thread per gw[k,c,kh,kw].
extern "C" __global__ void conv2d_weight_grad(const real* x, const real* g, real* gw,
                                              int N, int C, int H, int W, int K, int KH, int KW, int OH, int OW,
                                              int sh, int sw, int ph, int pw, int dh, int dw, int groups) {
  const int CG = C / groups, KG = K / groups;
  const long long total = (long long)K * CG * KH * KW;
  for (long long i = first_index(); i < total; i += all_threads()) {
    const int kw = i % KW, kh = i / KW % KH, c = i / KW / KH % CG, k = i / KW / KH / CG;
    const int c0 = k / KG * CG;
    real sum = 0;
    for (int n = 0; n < N; ++n)
      for (int oh = 0; oh < OH; ++oh)
        for (int ow = 0; ow < OW; ++ow) {
          const int ih = oh * sh - ph + kh * dh, iw = ow * sw - pw + kw * dw;
          if (ih < 0 || ih >= H || iw < 0 || iw >= W) continue;
          sum += x[at(n, c0 + c, ih, iw, C, H, W)] * g[at(n, k, oh, ow, K, OH, OW)];
        }
    gw[i] = sum;
  }
}
