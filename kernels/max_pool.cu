// Max pooling of images, and the way back.
//
//   max_pool_forward    y[n,c,oh,ow] = max over the window of x[n,c,ih,iw],    winner = where: ih * W + iw
//   max_pool_backward   gx[n,c,ih,iw] = sum of g[n,c,oh,ow] over the windows that (ih, iw) has won
//
// The window of (oh, ow) starts at (oh * sh - ph, ow * sw - pw) and is KH x KW, cut off where the image ends: padding,
// and the part of a last window that hangs over, never win. The host sees to it that no window lies outside entirely.
// At a tie the first in reading order wins; NaN counts as larger than every number, as in numpy.argmax.
//
// x and gx are (planes, H, W) with planes = N*C, the others (planes, OH, OW); one thread for one element of y forward,
// of gx backward. Backward could scatter, each g to its winner; but where windows overlap two of them may have the same
// winner, and would need atomic additions in an order that no run repeats. Gathering instead, an element of gx asks each
// window it lies in whether it has won there: ceil(KH/sh) * ceil(KW/sw) questions, one for windows that do not overlap.
//
// What limits both is memory. Overlapping windows read an element several times, from the caches mostly. The winner is
// as large as a float: where it is found again from x and y, or kept as a byte that counts within the window, less moves.

#ifndef real
#define real float  // -Dreal=double compiles the other precision
#endif

static __device__ long long first_index() { return (long long)blockIdx.x * blockDim.x + threadIdx.x; }
static __device__ long long all_threads() { return (long long)gridDim.x * blockDim.x; }
static __device__ bool larger(real a, real b) { return a > b || (a != a && b == b); }

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
    winner[i] = first;
  }
}

extern "C" __global__ void max_pool_backward(const real* g, const int* winner, real* gx, long long planes, int H, int W,
                                             int KH, int KW, int OH, int OW, int sh, int sw, int ph, int pw) {
  for (long long i = first_index(); i < planes * H * W; i += all_threads()) {
    const int iw = i % W, ih = i / W % H, here = ih * W + iw;
    const real* slope = g + i / W / H * OH * OW;
    const int* won = winner + i / W / H * OH * OW;
    // oh * sh - ph <= ih < oh * sh - ph + KH, and the same for the width
    const int oh0 = ih + ph < KH ? 0 : (ih + ph - KH) / sh + 1, oh1 = (ih + ph) / sh;
    const int ow0 = iw + pw < KW ? 0 : (iw + pw - KW) / sw + 1, ow1 = (iw + pw) / sw;
    real sum = 0;
    for (int oh = oh0; oh <= oh1 && oh < OH; ++oh)
      for (int ow = ow0; ow <= ow1 && ow < OW; ++ow)
        if (won[(long long)oh * OW + ow] == here) sum += slope[(long long)oh * OW + ow];
    gx[i] = sum;
  }
}
