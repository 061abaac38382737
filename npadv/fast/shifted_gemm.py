"""Convolution by taps: matrix products of runs of pixels, read where they lie and added where they belong.

A row of pixels is a matrix (W * N, C), and all of them together are one of (H * W * N, C). What tap (i, j) of the filters
adds to row r of the output is the product of some consecutive rows of that matrix with the filters' values at (i, j), a
matrix (C, K): a ``Span``. A convolution is its spans, and knows nothing else. They depend on shapes alone and are remembered.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from npadv.fast import parallel
from npadv.fast.blas import Span, add_products, add_transposed_products
from npadv.fast.layout import Problem

TILE = 512, 1024  # rows of a result that are summed up at a time, at least and at most

Tile = tuple[int, int, list[Span]]
"""Rows first to last of the target, and all that adds to them."""


def matrices(w: Any) -> Any:
    """Return filters (K, C, KH, KW) as a matrix for each tap: (KH * KW, C, K), contiguous."""
    k, c, kh, kw = w.shape
    return np.ascontiguousarray(w.transpose(2, 3, 1, 0)).reshape(kh * kw, c, k)


def gather(source: Any, w: Any, target: Any, parts: list[Tile]) -> None:
    """Make each tile of the target the sum of its spans' products."""

    def part(i: int) -> None:
        first, last, spans = parts[i]
        target[first:last] = 0
        add_products(target, source, w, spans)

    parallel.run(part, len(parts))


def gather_weights(x: Any, g: Any, problem: Problem) -> Any:
    """Return the gradient of the matrices of all taps: (KH * KW, C, K)."""
    k, c, kh, kw = problem.w
    taps = _taps(problem)
    parts = 1 if len(taps) > 8 else 2  # with few taps to share out, their sums are halved as well
    dw = np.zeros((parts, kh * kw, c, k), dtype=np.result_type(x, g))

    def part(i: int) -> None:
        tap, half = divmod(i, parts)
        add_transposed_products(dw[half], x, g, taps[tap] if parts == 1 else _half(taps[tap], half))

    parallel.run(part, len(taps) * parts)
    return dw[0] if parts == 1 else dw[0] + dw[1]


def _half(spans: list[Span], second: int) -> list[Span]:
    """Return the first or the second half of the rows of each span."""
    return [
        (at + middle, start + middle, count - middle, tap) if second else (at, start, middle, tap)
        for at, start, count, tap in spans
        for middle in (count // 2,)
    ]


@lru_cache(maxsize=256)
def tiles(problem: Problem, backward: bool) -> list[Tile]:
    """Return the rows of y (of x, backward) in tiles, with what each receives from the rows of x (of y)."""
    target = problem.x if backward else problem.y
    row = target[0] * target[3]  # of the matrix, in a row of pixels
    pieces = max(1, row // TILE[1], min(row // TILE[0], -(-16 // target[2])))  # to fit the cache, and to share out
    cuts = [row * piece // pieces for piece in range(pieces + 1)]
    found = []
    for r in range(target[2]):
        spans = list(_spans(problem, r, backward))
        for low, high in pairwise(cuts):
            first, last = r * row + low, r * row + high
            found.append((first, last, [cut for span in spans if (cut := _within(span, first, last))]))
    return found


@lru_cache(maxsize=256)
def _taps(problem: Problem) -> list[list[Span]]:
    """Return, for each tap, the spans of y that it adds to; neighbours in both x and y are one span."""
    taps: list[list[Span]] = [[] for _ in range(problem.w[2] * problem.w[3])]
    for r in range(problem.y[2]):
        for at, start, count, tap in _spans(problem, r, backward=False):
            spans = taps[tap]
            if spans and spans[-1][0] + spans[-1][2] == at and spans[-1][1] + spans[-1][2] == start:
                at, start, count = spans[-1][0], spans[-1][1], spans.pop()[2] + count
            spans.append((at, start, count, tap))
    return taps


def _spans(problem: Problem, r: int, backward: bool) -> Iterator[Span]:
    """Yield what the r-th row of pixels of y receives from x; or backward, what that of x receives from y."""
    (stride, _), (ph, pw), (dh, dw), *_ = problem.geometry
    n, _, height, width = problem.x
    _, _, kh, kw = problem.w
    _, _, y_height, y_width = problem.y
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


def _within(span: Span, first: int, last: int) -> Span | None:
    """Return the part of a span that lies in rows first to last of the target."""
    at, start, count, tap = span
    low, high = max(at, first), min(at + count, last)
    return (low, start + low - at, high - low, tap) if low < high else None
