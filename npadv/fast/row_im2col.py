"""Convolution along rows: the taps of one row of the filters make one product together.

Where a tap's product is too small to be worth its call, the images are unfolded along their rows, so that each pixel holds
all that a row of a filter sees from there, KW * C channels. What is left is a narrow problem, with filters one pixel wide,
which is done by taps (``taps.py``). Folding, the way back, adds each pixel's channels to where they were seen; where padding
makes results longer than images, there is less to do the other way, with the gradient of the result unfolded (``turned``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from npadv.fast import parallel
from npadv.fast.layout import Problem

LARGE = 1 << 20  # elements that are worth a second thread


def narrow(problem: Problem) -> Problem:
    """Return the problem that is left when the images have been unfolded."""
    (n, c, height, _), (k, _, kh, kw), y, geometry = problem
    (sh, _), (ph, _), (dh, _), groups, *_ = geometry
    return Problem((n, kw * c, height, y[3]), (k, kw * c, kh, 1), y, type(geometry)((sh, 1), (ph, 0), (dh, 1), groups))


def unfolded(p: Any, problem: Problem) -> Any:
    """Return pixels (H, W, N, C) as (H, OW, N, KW * C), zero where a tap lies beyond the edge."""
    height, _, n, c = p.shape
    width, kw = problem.y[3], problem.w[3]
    out = np.empty((height, width, n, kw, c), dtype=p.dtype)

    def part(some: slice) -> None:
        for j in range(kw):
            inside, seen = _seen(problem, j)
            out[some, : inside.start, :, j] = 0
            out[some, inside, :, j] = p[some, seen]
            out[some, inside.stop :, :, j] = 0

    _halves(part, height, out.size)
    return out.reshape(height, width, n, kw * c)


def folded(u: Any, problem: Problem) -> Any:
    """Return the adjoint of ``unfolded``: each pixel's channels added back to where they were seen."""
    (n, c, height, width), kw = problem.x, problem.w[3]
    u = u.reshape(height, problem.y[3], n, kw, c)
    out = np.zeros((height, width, n, c), dtype=u.dtype)

    def part(some: slice) -> None:
        for j in range(kw):
            inside, seen = _seen(problem, j)
            out[some, seen] += u[some, inside, :, j]

    _halves(part, height, u.size)
    return out


def shorter(problem: Problem) -> bool:
    """Whether rows of images are shorter than those of results, as padding makes them: then it is these to unfold."""
    return problem.geometry.stride[1] == 1 and problem.x[3] < problem.y[3]


def turned(g: Any, w: Any, problem: Problem) -> tuple[Any, Any, Problem]:
    """Return what the gradient of the images is gathered from, instead of being folded: g unfolded, w, narrow problem.

    The filters come as they are, (K, C, KH, KW), and are returned as matrices.

    Along the rows it is a convolution too, of g with the filters turned round, and with what padding leaves of theirs.
    """
    (sh, _), (ph, pw), (dh, dw), groups, *_ = problem.geometry
    (n, c, height, width), (k, _, kh, kw), (_, _, y_height, _) = problem.x, problem.w, problem.y
    kind = type(problem.geometry)
    around = kind((1, 1), (0, (kw - 1) * dw - pw), (1, dw), groups)
    g = unfolded(g, Problem(problem.y, (c, k, kh, kw), (n, c, y_height, width), around))
    w = np.ascontiguousarray(w.transpose(2, 3, 0, 1)[:, ::-1]).reshape(kh, kw * k, c)
    shapes = (n, c, height, width), (kw * k, c, kh, 1), (n, kw * k, y_height, width)
    return g, w, Problem(*shapes, kind((sh, 1), (ph, 0), (dh, 1), groups))


def _seen(problem: Problem, j: int) -> tuple[slice, slice]:
    """Return, of a row of the output, the pixels whose j-th tap lies in the image, and where these taps lie."""
    (_, stride), (_, padding), (_, dilation), *_ = problem.geometry
    width, out = problem.x[3], problem.y[3]
    shift = j * dilation - padding
    first = min(out, max(0, -(shift // stride)))
    last = max(first, min(out, (width - 1 - shift) // stride + 1))
    if first == last:
        return slice(first, first), slice(0, 0)
    return slice(first, last), slice(first * stride + shift, (last - 1) * stride + shift + 1, stride)


def _halves(part: Callable[[slice], None], height: int, elements: int) -> None:
    """Do something to some rows and to the others; to all at once where that is little work."""
    cuts = [0, height // 2, height] if elements > LARGE else [0, height]
    parallel.run(lambda i: part(slice(cuts[i], cuts[i + 1])), len(cuts) - 1)
