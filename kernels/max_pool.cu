// Max pooling of images, and its gradient.
//
//   max_pool_forward    y[n,c,oh,ow] = max over the window of x[n,c,ih,iw],    winner = where: ih * W + iw
//   max_pool_backward   gx[n,c,ih,iw] = sum of g[n,c,oh,ow] over the windows that (ih, iw) has won
//
// The window of (oh, ow) starts at (oh * sh - ph, ow * sw - pw) and is KH x KW, cut off at the edges of the image: the
// padding never wins. The host checks that no window lies outside the image entirely. At a tie the first in reading order
// wins. NaN counts as larger than every number; a maximum of NaN has the winner -1, so its gradient goes nowhere.
//
// x and gx are (planes, H, W) with planes = N*C, the others (planes, OH, OW); one thread for one element of y forward,
// of gx backward. Backward could scatter each g to its winner. But two overlapping windows may have the same winner; their
// additions would have to be atomic, in an order that differs from run to run. So it gathers: the thread of an element of
// gx compares it with the winner of each window that it lies in. These are at most ceil(KH/sh) * ceil(KW/sw) windows, one
// if windows do not overlap.
//
// What limits both is memory. Overlapping windows read an element several times, mostly from the caches. The winner is as
// large as a float; as a byte that counts within the window it would be a quarter of that.

#include "common.cuh"

extern "C" __global__ void max_pool_forward(const real* x, real* y, int* winner, long long planes, int H, int W,
                                            int KH, int KW, int OH, int OW, int sh, int sw, int ph, int pw) {
  for (long long i = first_index(); i < planes * OH * OW; i += all_threads()) {
    const int ow = i % OW, oh = i / OW % OH;
    const real* image = x + i / OW / OH * H * W;
    const int top = oh * sh - ph, left = ow * sw - pw;
    const int h0 = top < 0 ? 0 : top, h1 = KH < H - top ? top + KH : H;
    const int w0 = left < 0 ? 0 : left, w1 = KW < W - left ? left + KW : W;
    int first = h0 * W + w0;
    for (int h = h0; h < h1; ++h)
      for (int w = w0; w < w1; ++w)
        if (larger(image[h * W + w], image[first])) first = h * W + w;
    y[i] = image[first];
    winner[i] = image[first] == image[first] ? first : -1;
  }
}

extern "C" __global__ void max_pool_backward(const real* g, const int* winner, real* gx, long long planes, int H, int W,
                                             int KH, int KW, int OH, int OW, int sh, int sw, int ph, int pw) {
  for (long long i = first_index(); i < planes * H * W; i += all_threads()) {
    const int iw = i % W, ih = i / W % H, here = ih * W + iw;
    const real* g_plane = g + i / W / H * OH * OW;
    const int* winner_plane = winner + i / W / H * OH * OW;
    // oh * sh - ph <= ih < oh * sh - ph + KH, and the same for the width
    const int oh0 = ih + ph < KH ? 0 : (ih + ph - KH) / sh + 1, oh1 = (ih + ph) / sh;
    const int ow0 = iw + pw < KW ? 0 : (iw + pw - KW) / sw + 1, ow1 = (iw + pw) / sw;
    real sum = 0;
    for (int oh = oh0; oh <= oh1 && oh < OH; ++oh)
      for (int ow = ow0; ow <= ow1 && ow < OW; ++ow)
        if (winner_plane[(long long)oh * OW + ow] == here) sum += g_plane[(long long)oh * OW + ow];
    gx[i] = sum;
  }
}
