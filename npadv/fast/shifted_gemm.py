"""Convolution by shifted matrix products: each tap of the filters multiplies runs of pixels in place.

A row of pixels is a matrix (W * N, C), and all rows together are one of (H * W * N, C). Moving by j pixels along a row is
moving by j * N rows of that matrix. So the contribution of tap (i, j) of the filters to row r of the result is the product of
some consecutive rows of the matrix with the filters' values at (i, j), a matrix (C, K): a ``RowRange``. Nothing is copied,
and over the padding the range is shorter or empty. Row ranges depend on the shapes alone and are cached.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from npadv.fast import parallel
from npadv.fast.blas import RowRange, add_products, add_transposed_products
from npadv.shapes import ConvShapes

TILE_ROWS = 512, 1024  # the rows of the result that are summed up at a time, at least and at most

Tile = tuple[int, int, list[RowRange]]
"""Rows first to last of the target, and the row ranges whose products are added to them."""


def tap_matrices(w: Any) -> Any:
    """Return filters (K, C, KH, KW) as a matrix for each tap: (KH * KW, C, K), contiguous."""
    k, c, kh, kw = w.shape
    return np.ascontiguousarray(w.transpose(2, 3, 1, 0)).reshape(kh * kw, c, k)


def sum_products(source: Any, w: Any, target: Any, parts: list[Tile]) -> None:
    """Set each tile of the target to the sum of its products."""

    def part(i: int) -> None:
        first, last, ranges = parts[i]
        target[first:last] = 0
        add_products(target, source, w, ranges)

    parallel.run(part, len(parts))


def tap_gradients(x: Any, g: Any, shapes: ConvShapes) -> Any:
    """Return the gradient of the matrices of all taps: (KH * KW, C, K)."""
    k, c, kh, kw = shapes.w
    ranges = _ranges_by_tap(shapes)
    parts = 1 if len(ranges) > 8 else 2  # few taps: the rows of each are divided too
    dw = np.zeros((parts, kh * kw, c, k), dtype=np.result_type(x, g))

    def part(i: int) -> None:
        tap, half = divmod(i, parts)
        add_transposed_products(dw[half], x, g, ranges[tap] if parts == 1 else _half(ranges[tap], half))

    parallel.run(part, len(ranges) * parts)
    return dw[0] if parts == 1 else dw[0] + dw[1]


def _half(ranges: list[RowRange], second: int) -> list[RowRange]:
    """Return the first or the second half of the rows of each range."""
    return [
        (at + middle, start + middle, count - middle, tap) if second else (at, start, middle, tap)
        for at, start, count, tap in ranges
        for middle in (count // 2,)
    ]


@lru_cache(maxsize=256)
def tiles(shapes: ConvShapes, backward: bool) -> list[Tile]:
    """Return the rows of y (of x, backward) in tiles, each with the row ranges of x (of y) that add to it."""
    target = shapes.x if backward else shapes.y
    row = target[0] * target[3]  # of the matrix, in a row of pixels
    # Pieces of a row fit the cache, and there are enough of them to divide among threads.
    pieces = max(1, row // TILE_ROWS[1], min(row // TILE_ROWS[0], -(-16 // target[2])))
    cuts = [row * piece // pieces for piece in range(pieces + 1)]
    found = []
    for r in range(target[2]):
        ranges = list(_row_ranges(shapes, r, backward))
        for low, high in pairwise(cuts):
            first, last = r * row + low, r * row + high
            found.append((first, last, [cut for rows in ranges if (cut := _within(rows, first, last))]))
    return found


@lru_cache(maxsize=256)
def _ranges_by_tap(shapes: ConvShapes) -> list[list[RowRange]]:
    """Return, for each tap, the row ranges of y that it adds to; ranges adjacent in both x and y are joined."""
    taps: list[list[RowRange]] = [[] for _ in range(shapes.w[2] * shapes.w[3])]
    for r in range(shapes.y[2]):
        for at, start, count, tap in _row_ranges(shapes, r, backward=False):
            ranges = taps[tap]
            if ranges and ranges[-1][0] + ranges[-1][2] == at and ranges[-1][1] + ranges[-1][2] == start:
                at, start, count = ranges[-1][0], ranges[-1][1], ranges.pop()[2] + count
            ranges.append((at, start, count, tap))
    return taps


def _row_ranges(shapes: ConvShapes, r: int, backward: bool) -> Iterator[RowRange]:
    """Yield the row ranges that add to the r-th row of pixels of y; or, backward, to the r-th row of x."""
    (stride, _), (ph, pw), (dh, dw) = shapes.stride, shapes.padding, shapes.dilation
    n, _, height, width = shapes.x
    _, _, kh, kw = shapes.w
    _, _, y_height, y_width = shapes.y
    for i in range(kh):
        if backward:
            other, rest = divmod(r + ph - i * dh, stride)
            if rest or not 0 <= other < y_height:
                continue
        else:
            other = r * stride + i * dh - ph
            if not 0 <= other < height:
                continue
        for j in range(kw):
            shift = pw - j * dw if backward else j * dw - pw  # in pixels, from a target to its source
            own_width, other_width = (width, y_width) if backward else (y_width, width)
            first, last = max(0, -shift), min(own_width, other_width - shift)
            if first < last:
                yield (
                    (r * own_width + first) * n,
                    (other * other_width + first + shift) * n,
                    (last - first) * n,
                    i * kw + j,
                )


def _within(rows: RowRange, first: int, last: int) -> RowRange | None:
    """Return the part of a row range that lies in rows first to last of the target."""
    at, start, count, tap = rows
    low, high = max(at, first), min(at + count, last)
    return (low, start + low - at, high - low, tap) if low < high else None
