"""Convolution by im2col in blocks: some windows are copied into the columns of a matrix that fits the cache, then multiplied.

This is the plain algorithm of ``ops/conv.py``, one block of windows after the other, for any stride, dilation and groups. The
matrix is transposed, (KH * KW * C, pixels * N): a row of it holds the pixels that one tap reads in neighbouring windows. These
are neighbours in memory, so each row is copied in long runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from npadv.backend import sliding_windows
from npadv.fast import parallel
from npadv.fast.layout import avoid_aliasing, empty_hwnc, to_hwnc, to_nchw
from npadv.shapes import ConvShapes

MAX_COLUMNS = 1 << 17  # elements of the matrix of columns that is made at a time
MIN_BLOCKS = 8  # the least number of blocks, if there are as many rows, so that they can be divided among threads

MAX_UNPACKED = 1_000_000
"""Multiplications in a product for which OpenBLAS does not copy its arguments.

The arguments of a larger product are copied into another order first, and where the filters are few, copying takes as long
as multiplying. So a block's columns are multiplied in pieces: as a stack of matrices, in one call.
"""
MIN_PIECE = 128  # rows of such a piece
DATASET_CHANNELS = 3  # images of at most so many channels come from a data set, in C order; so does their gradient

_scratch = parallel.Scratch()


def forward(x: Any, w: Any, shapes: ConvShapes) -> Any:
    """Return the result of ``conv.conv2d_forward``."""
    windows = _windows(_padded(x, shapes), shapes)
    filters = _filters(w, shapes)
    y = empty_hwnc(shapes.y, np.result_type(x, w))
    blocks = _blocks(shapes)

    def part(i: int) -> None:
        columns = _columns(windows, blocks[i], shapes)
        for group, out in enumerate(_groups(y, blocks[i], shapes)):
            pieces = _pieces(len(out), filters[group].size)
            np.matmul(_stacked(columns[group].T, pieces), filters[group], out=_stacked(out, pieces))

    parallel.run(part, len(blocks))
    return to_nchw(y)


def weight_grad(x: Any, g: Any, shapes: ConvShapes) -> Any:
    """Return the result of ``conv.conv2d_weight_grad``."""
    windows = _windows(_padded(x, shapes), shapes)
    g = to_hwnc(g)
    blocks = _blocks(shapes)
    (k, c, kh, kw), groups = shapes.w, shapes.groups
    shares = _shares(len(blocks))
    sums = np.zeros((len(shares), groups, kh * kw * c, k // groups), dtype=np.result_type(x, g))

    def part(i: int) -> None:
        for block in blocks[shares[i]]:
            columns = _columns(windows, block, shapes)
            for group, cotangent in enumerate(_groups(g, block, shapes)):
                pieces = _pieces(len(cotangent), sums[i, group].size)
                turned = _stacked(columns[group].T, pieces).swapaxes(1, 2)
                sums[i, group] += np.matmul(turned, _stacked(cotangent, pieces)).sum(axis=0)

    parallel.run(part, len(shares))
    return sums.sum(axis=0).reshape(groups, kh, kw, c, k // groups).transpose(0, 4, 3, 1, 2).reshape(k, c, kh, kw)


def input_grad(g: Any, w: Any, shapes: ConvShapes) -> Any:
    """Return the result of ``conv.conv2d_input_grad``."""
    filters, g, dtype = _filters(w, shapes), to_hwnc(g), np.result_type(g, w)
    (n, channels, h, width), (_, c, kh, kw), groups = shapes.x, shapes.w, shapes.groups
    (sh, sw), (ph, pw), dh = shapes.stride, shapes.padding, shapes.dilation[0]
    blocks = _blocks(shapes)
    shares = _shares(len(blocks))
    strips: list[Any] = [None] * len(shares)

    def part(i: int) -> None:  # the windows of two shares overlap, so each share adds to a strip of its own
        own = blocks[shares[i]]
        top, bottom = own[0].top, own[-1].bottom
        height = (bottom - 1 - top) * sh + (kh - 1) * dh + 1
        strip = np.zeros((height, width + 2 * pw, n, groups, c), dtype=dtype)
        for block in own:
            shape = (block.bottom - block.top, block.right - block.left)
            for group, cotangent in enumerate(_groups(g, block, shapes)):
                taps = _scratch.array((kh * kw * c, len(cotangent)), dtype)
                pieces = _pieces(len(cotangent), filters[group].size)
                turned = _stacked(cotangent, pieces).swapaxes(1, 2)
                np.matmul(filters[group], turned, out=_stacked(taps.T, pieces).swapaxes(1, 2))
                taps = taps.reshape(kh, kw, c, *shape, n).transpose(0, 1, 3, 4, 5, 2)  # (KH, KW, rows, columns, N, C)
                _add_taps(strip[(block.top - top) * sh :, block.left * sw :, :, group], taps, shapes)
        strips[i] = top * sh, strip.reshape(height, width + 2 * pw, n, channels)

    parallel.run(part, len(shares))
    dx = np.zeros((h + 2 * ph, width + 2 * pw, n, channels), dtype=dtype)
    for top, strip in strips:
        dx[top : top + len(strip)] += strip
    dx = to_nchw(dx[ph : ph + h, pw : pw + width])
    return np.ascontiguousarray(dx) if channels <= DATASET_CHANNELS else to_nchw(to_hwnc(dx))


def _add_taps(pixels: Any, taps: Any, shapes: ConvShapes) -> None:
    """Add taps (KH, KW, rows, columns, N, C) to the pixels (H, W, N, C) that they read, in as few operations as possible."""
    (sh, sw), (dh, dw), (kh, kw, rows, columns) = shapes.stride, shapes.dilation, taps.shape[:4]
    for j in range(kw):
        seen = pixels[:, j * dw : j * dw + sw * (columns - 1) + 1 : sw]
        if rows < kh:  # all taps of one row of results at once: they lie in different rows of the image
            for r in range(rows):
                window = seen[r * sh : r * sh + dh * (kh - 1) + 1 : dh]
                window += taps[:, j, r]
        else:  # one tap of all rows of results at once
            for i in range(kh):
                window = seen[i * dh : i * dh + sh * (rows - 1) + 1 : sh]
                window += taps[i, j]


class Block(NamedTuple):
    """A rectangle of pixels of the result: a part of one row, or some whole rows."""

    top: int
    bottom: int
    left: int
    right: int


@lru_cache(maxsize=256)
def _blocks(shapes: ConvShapes) -> list[Block]:
    """Return the result in blocks: as large as fits the cache, but of about 4 pixels at least, since a product has a cost."""
    n, _, height, width = shapes.y
    _, c, kh, kw = shapes.w
    fit = max(1, MAX_COLUMNS // (max(1, n) * kh * kw * c * shapes.groups))  # pixels
    if fit >= width:
        step = min(fit // width, max(1, height // MIN_BLOCKS))
        return [Block(top, min(top + step, height), 0, width) for top in range(0, height, step)]
    pieces = -(-width // max(fit, 4))
    cuts = [width * piece // pieces for piece in range(pieces + 1)]
    edges = list(pairwise(cuts))
    return [Block(top, top + 1, left, right) for top in range(height) for left, right in edges]


@lru_cache(maxsize=256)
def _pieces(length: int, area: int) -> int:
    """Return the number of equal pieces in which ``length`` rows are multiplied by a matrix of ``area`` elements."""
    most = MAX_UNPACKED // area
    return next((p for p in range(1, length // MIN_PIECE + 1) if length % p == 0 and length // p <= most), 1)


def _stacked(m: Any, pieces: int) -> Any:
    """Return a matrix (L, K) as a stack (pieces, L / pieces, K), a view."""
    return m.reshape(pieces, len(m) // pieces, m.shape[1])


def _shares(blocks: int, count: int = 16) -> list[slice]:
    """Return consecutive blocks for each part. The number of parts is the same on every machine, and so are the sums."""
    count = min(count, blocks)
    return [slice(blocks * i // count, blocks * (i + 1) // count) for i in range(count)]


def _padded(x: Any, shapes: ConvShapes) -> Any:
    """Return pixels with zeros around them."""
    ph, pw = shapes.padding
    if ph == pw == 0:
        return to_hwnc(x)
    n, c, h, w = x.shape
    padded = np.zeros((h + 2 * ph, w + 2 * pw, n, c), dtype=x.dtype)
    padded[ph : ph + h, pw : pw + w] = avoid_aliasing(x).transpose(2, 3, 0, 1)
    return padded


def _windows(p: Any, shapes: ConvShapes) -> Any:
    """Return a view of pixels as (groups, KH, KW, C/groups, OH, OW, N): for each tap, the pixels of all windows."""
    (sh, sw), (dh, dw), groups = shapes.stride, shapes.dilation, shapes.groups
    _, c, kh, kw = shapes.w
    seen = sliding_windows(p, (dh * (kh - 1) + 1, dw * (kw - 1) + 1), axis=(0, 1))
    seen = seen[::sh, ::sw, :, :, ::dh, ::dw]  # (OH, OW, N, channels, KH, KW)
    seen = seen.reshape(*seen.shape[:3], groups, c, kh, kw)  # splitting an axis copies nothing
    return seen.transpose(3, 5, 6, 4, 0, 1, 2)


def _columns(windows: Any, block: Block, shapes: ConvShapes) -> Any:
    """Return the windows of a block as columns (groups, KH * KW * C/groups, pixels * N), in scratch memory."""
    seen = windows[..., block.top : block.bottom, block.left : block.right, :]
    columns = _scratch.array(seen.shape, seen.dtype)
    np.copyto(columns, seen)
    groups, kh, kw, c = seen.shape[:4]
    return columns.reshape(groups, kh * kw * c, -1)


def _filters(w: Any, shapes: ConvShapes) -> Any:
    """Return filters as one matrix for each group: (groups, KH * KW * C/groups, K/groups)."""
    (k, c, kh, kw), groups = w.shape, shapes.groups
    return w.reshape(groups, k // groups, c, kh, kw).transpose(0, 3, 4, 2, 1).reshape(groups, kh * kw * c, k // groups)


def _groups(p: Any, block: Block, shapes: ConvShapes) -> Iterator[Any]:
    """Yield, for each group, the rows (pixels * N, K/groups) of a block of the output."""
    matrix = p[block.top : block.bottom, block.left : block.right].reshape(-1, p.shape[3])  # a view: see Block
    size = p.shape[3] // shapes.groups
    for group in range(shapes.groups):
        yield matrix[:, group * size : (group + 1) * size]
