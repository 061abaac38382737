"""Convolution with fewer multiplications (Toom, Cook; Winograd 1980; for networks Lavin and Gray 2016).

The product of two polynomials with m and r coefficients can be computed from their values at n = m + r - 1 points: multiply
the values, n products instead of m r, and find the polynomial with n coefficients that has these values. Let E_k (n, k) be the
matrix that computes the values at the points from k coefficients. Then

    a w  =  E_n^-1 [(E_m a) * (E_r w)].

Filtering is the transpose of that product: from n neighbours d it computes m sums y_i = sum_j d_{i+j} w_j, so that
<y, a> = <d, a w> for any a, and

    y  =  E_m' [(E_r w) * (E_n^-T d)].

Images are cut into overlapping tiles of n by n pixels, each for m by m results, and the formula is applied along both axes.
The steps that involve d or w alone are computed channel by channel. Only the product between them combines channels: it is
n n products of matrices. For 5 x 5 filters and m = 4 these have 64 multiplications where the definition has 400. Every step
is linear in the image and in the filter, and the gradients are the transposed steps in reverse order.

It costs a digit of precision, because the values at the points are larger than the results and cancel. In float32 the errors
are about 4e-6 of the largest result instead of 4e-7.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from npadv.backend import sliding_windows
from npadv.fast import parallel
from npadv.fast.blas import one_thread
from npadv.fast.layout import empty_hwnc, to_hwnc, to_nchw
from npadv.shapes import ConvShapes

SIDE = 4  # m: outputs of a tile along an axis
POINTS = (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5)  # and infinity, where a polynomial's value is its last coefficient
MAX_TAPS = len(POINTS) + 2 - SIDE
MAX_ELEMENTS = 1 << 20  # elements at the points that are computed at a time

# The cost model, in multiplications of a matrix product.
TRANSFORM_COST = 47  # of transforming one element to the points or back
MAX_COST_RATIO = 1.1  # to the multiplications of the other algorithms
MAX_FILTER_ELEMENTS = 1 << 22  # at the points: every part of the work reads all of them

_pixels, _tiles, _halfway, _first, _second = (parallel.Scratch() for _ in range(5))


class Transform(NamedTuple):
    """The matrices of the formula for one axis."""

    inputs: Any  # E_n^-T: (n, n)
    filters: Any  # E_r: (n, r)
    outputs: Any  # E_m': (m, n)


@lru_cache(maxsize=64)
def transform(taps: int, dtype: Any) -> Transform:
    """Return the matrices for filters with a number of taps along an axis.

    >>> d, w, change = np.array([1.0, 2, 3, 4, 5, 6]), np.array([1.0, 0, -1]), transform(3, np.dtype(float))
    >>> (change.outputs @ ((change.filters @ w) * (change.inputs @ d))).round(9)
    array([-2., -2., -2., -2.])
    """
    n = SIDE + taps - 1
    matrices = np.linalg.inv(_values(n, n)).T, _values(n, taps), _values(n, SIDE).T
    return Transform(*(np.ascontiguousarray(m, dtype) for m in matrices))


def _values(n: int, k: int) -> Any:
    """Return E_k: the values at n points, the last of them infinity, of polynomials with k coefficients."""
    return np.vstack([np.vander(POINTS[: n - 1], k, increasing=True), np.eye(k)[-1]])


@lru_cache(maxsize=256)
def is_faster(shapes: ConvShapes) -> bool:
    """Whether this algorithm is possible, and faster than the others."""
    (_, c, height, _), (k, _, kh, kw), (_, _, out, across) = shapes.x, shapes.w, shapes.y
    ph = shapes.padding[0]
    if (shapes.stride, shapes.dilation, shapes.groups) != ((1, 1), (1, 1), 1) or max(kh, kw) > MAX_TAPS:
        return False
    reads = sum(max(0, min(out, height + ph - i) - max(0, ph - i)) for i in range(kh))  # of rows of x, by rows of y
    points = (SIDE + kh - 1) * (SIDE + kw - 1)
    cost = points * -(-out // SIDE) * -(-across // SIDE) * (c * k + TRANSFORM_COST * (c + k))
    return points * c * k <= MAX_FILTER_ELEMENTS and cost < MAX_COST_RATIO * reads * across * kw * c * k


def forward(x: Any, w: Any, shapes: ConvShapes) -> Any:
    """Return the result of ``conv.conv2d_forward``."""
    dtype = np.result_type(x, w)
    x, tiling = to_hwnc(x.astype(dtype, copy=False)), _Tiling(shapes, dtype)
    filters = tiling.filters(w)
    y = empty_hwnc(shapes.y, dtype)

    def part(i: int) -> None:
        some = tiling.images(i)
        products = _multiplied(tiling.spectra(x[:, :, some]), filters, _second)
        tiling.put(products, y[:, :, some])

    parallel.run(part, tiling.parts)
    return to_nchw(y)


def input_grad(g: Any, w: Any, shapes: ConvShapes) -> Any:
    """Return the result of ``conv.conv2d_input_grad``."""
    dtype = np.result_type(g, w)
    g, tiling = to_hwnc(g.astype(dtype, copy=False)), _Tiling(shapes, dtype)
    filters = tiling.filters(w).swapaxes(2, 3)
    dx = empty_hwnc(shapes.x, dtype)

    def part(i: int) -> None:
        some = tiling.images(i)
        products = _multiplied(tiling.cotangent_spectra(g[:, :, some], _first), filters, _second)
        tiling.add(products, dx[:, :, some])

    parallel.run(part, tiling.parts)
    return to_nchw(dx)


def weight_grad(x: Any, g: Any, shapes: ConvShapes) -> Any:
    """Return the result of ``conv.conv2d_weight_grad``."""
    dtype = np.result_type(x, g)
    x, g = (to_hwnc(a.astype(dtype, copy=False)) for a in (x, g))
    tiling = _Tiling(shapes, dtype)
    (k, c, _, _), (rows, columns) = shapes.w, tiling.axes
    points = len(rows.inputs), len(columns.inputs)
    # The number of shares is the same on every machine, and so are the sums.
    shares = min(tiling.parts, max(4, min(16, MAX_FILTER_ELEMENTS // (points[0] * points[1] * c * k))))
    sums = np.empty((shares, *points, c, k), dtype)

    def share(i: int) -> None:
        first, last = tiling.parts * i // shares, tiling.parts * (i + 1) // shares
        for part in range(first, last):
            some = tiling.images(part)
            spectra = tiling.spectra(x[:, :, some]).swapaxes(2, 3)
            cotangents = tiling.cotangent_spectra(g[:, :, some], _second)
            if part == first:
                np.matmul(spectra, cotangents, out=sums[i])
            else:
                sums[i] += np.matmul(spectra, cotangents)

    parallel.run(share, shares)
    with one_thread():
        dw = _along_both(rows.filters.T, columns.filters.T, sums.sum(axis=0).reshape(*points, c * k))
    return dw.reshape(*shapes.w[2:], c, k).transpose(3, 2, 0, 1)


def _multiplied(spectra: Any, filters: Any, scratch: parallel.Scratch) -> Any:
    """Return the products at all points: (n, n, tiles * N, C) by (n, n, C, K), or by the transposed (n, n, K, C)."""
    out = scratch.array((*spectra.shape[:3], filters.shape[3]), filters.dtype)
    return np.matmul(spectra, filters, out=out)


def _along_both(rows: Any, columns: Any, a: Any, out: Any = None) -> Any:
    """Return matrices applied along the first and the second axis of an array (p, q, L): (P, q) and (Q, q) give (P, Q, L).

    Each is a stack of products of a small matrix and a wide one, which OpenBLAS computes without copying them.
    """
    halfway = _halfway.array((len(rows), *a.shape[1:]), a.dtype)
    np.matmul(rows, a.swapaxes(0, 1), out=halfway.swapaxes(0, 1))
    return np.matmul(columns, halfway, out=out)


class _Tiling:
    """The division of the images of a convolution into parts of some images each, and of each image into tiles."""

    def __init__(self, shapes: ConvShapes, dtype: Any) -> None:
        (self.n, c, *_), (k, _, kh, kw), (_, _, height, width) = shapes.x, shapes.w, shapes.y
        self.axes = transform(kh, dtype), transform(kw, dtype)
        self.size = SIDE + kh - 1, SIDE + kw - 1  # of a tile of the input
        self.counts = -(-height // SIDE), -(-width // SIDE)  # of tiles that cover the output
        self.padding = shapes.padding
        each = self.size[0] * self.size[1] * self.counts[0] * self.counts[1] * (c + k)
        self.parts = max(1, min(self.n, 2 * max(1, round(self.n * each / (2 * MAX_ELEMENTS)))))

    def images(self, i: int) -> slice:
        """Return the images of a part, as a slice of the batch."""
        return slice(self.n * i // self.parts, self.n * (i + 1) // self.parts)

    def filters(self, w: Any) -> Any:
        """Return the values of filters (K, C, KH, KW) at the points: (n, n, C, K)."""
        k, c, kh, kw = w.shape
        rows, columns = self.axes
        taps = np.ascontiguousarray(w.transpose(2, 3, 1, 0), rows.filters.dtype).reshape(kh, kw, c * k)
        with one_thread():
            return _along_both(rows.filters, columns.filters, taps).reshape(*self.size, c, k)

    def spectra(self, p: Any) -> Any:
        """Return the values of the tiles of pixels (H, W, N, C): (n, n, tiles * N, C)."""
        (ph, pw), (height, width, n, c) = self.padding, p.shape
        rows, columns = self.axes
        tall, wide = (SIDE * (count - 1) + size for count, size in zip(self.counts, self.size, strict=True))
        if ph or pw or height < tall or width < wide:
            padded = _pixels.array((tall, wide, n, c), p.dtype)
            padded[...] = 0
            inside = p[: tall - ph, : wide - pw]
            padded[ph : ph + len(inside), pw : pw + inside.shape[1]] = inside
            p = padded
        seen = sliding_windows(p[:tall, :wide], self.size, axis=(0, 1))[::SIDE, ::SIDE]
        tiles = _tiles.array((*self.size, *self.counts, n, c), p.dtype)
        np.copyto(tiles, seen.transpose(4, 5, 0, 1, 2, 3))
        out = _first.array((*self.size, tiles[0, 0].size), p.dtype)
        return _along_both(rows.inputs, columns.inputs, tiles.reshape(out.shape), out).reshape(*self.size, -1, c)

    def add(self, products: Any, dx: Any) -> None:
        """Add the values at the points to pixels (H, W, N, C), by the transpose of ``spectra``: tiles overlap."""
        (ph, pw), (height, width, n, c), (down, across) = self.padding, dx.shape, self.counts
        rows, columns = self.axes
        tiles = _tiles.array((*self.size, products[0, 0].size), dx.dtype)
        _along_both(rows.inputs.T, columns.inputs.T, products.reshape(tiles.shape), tiles)
        tiles = tiles.reshape(*self.size, *self.counts, n, c)
        whole = _pixels.array(((down + 1) * SIDE, (across + 1) * SIDE, n, c), dx.dtype)
        whole[...] = 0
        squares = _squares(whole)
        for i in (0, 1):  # a tile's first four rows lie in one square of pixels, the others in the next; so its columns
            for j in (0, 1):
                own = tiles[i * SIDE : (i + 1) * SIDE, j * SIDE : (j + 1) * SIDE]
                squares[: len(own), : own.shape[1], i : i + down, j : j + across] += own
        seen = whole[ph : ph + height, pw : pw + width]
        dx[len(seen) :] = dx[:, seen.shape[1] :] = 0
        dx[: len(seen), : seen.shape[1]] = seen

    def put(self, products: Any, y: Any) -> None:
        """Transform the values at the points to results (OH, OW, N, K): tiles lie side by side."""
        height, width, n, k = y.shape
        rows, columns = self.axes
        tiles = _tiles.array((SIDE, SIDE, products[0, 0].size), y.dtype)
        _along_both(rows.outputs, columns.outputs, products.reshape(*self.size, -1), tiles)
        whole = self._whole(y)
        _squares(whole)[...] = tiles.reshape(SIDE, SIDE, *self.counts, n, k)
        if whole is not y:
            y[...] = whole[:height, :width]

    def cotangent_spectra(self, p: Any, scratch: parallel.Scratch) -> Any:
        """Return the values of a gradient (OH, OW, N, K) at the points, (n, n, tiles * N, K), by the transpose of ``put``."""
        height, width, n, k = p.shape
        rows, columns = self.axes
        whole = self._whole(p)
        if whole is not p:
            whole[height:] = whole[:, width:] = 0
            whole[:height, :width] = p
        tiles = _tiles.array((SIDE, SIDE, *self.counts, n, k), p.dtype)
        np.copyto(tiles, _squares(whole))
        out = scratch.array((*self.size, tiles[0, 0].size), p.dtype)
        _along_both(rows.outputs.T, columns.outputs.T, tiles.reshape(SIDE, SIDE, -1), out)
        return out.reshape(*self.size, -1, k)

    def _whole(self, p: Any) -> Any:
        """Return pixels if tiles cover them exactly, else scratch memory for all pixels that the tiles cover."""
        height, width = self.counts[0] * SIDE, self.counts[1] * SIDE
        return p if p.shape[:2] == (height, width) else _pixels.array((height, width, *p.shape[2:]), p.dtype)


def _squares(p: Any) -> Any:
    """Return a view of pixels (R m, S m, N, C) as (m, m, R, S, N, C): by their position in squares of m by m."""
    height, width, n, c = p.shape
    return p.reshape(height // SIDE, SIDE, width // SIDE, SIDE, n, c).transpose(1, 3, 0, 2, 4, 5)
