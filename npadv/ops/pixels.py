"""Convolution on a CPU, fast: images in memory pixel by pixel, and matrix products that read them where they lie.

``conv.py`` says what a convolution is and computes it the plain way. This file computes the same, several times faster, on
NumPy arrays. Three ideas carry it.

*Memory.* Images are (N, C, H, W) to everybody else; here they lie as (H, W, N, C): pixel after pixel, at each pixel all
images, of each image all channels. ``pixels(x)`` is that view, copied only if x came in another order, and what is returned
is a view the other way, so a network pays for the order once, at its input. Pooling and activations like it too: what they
combine are whole pixels, long contiguous runs.

*Taps.* A row of pixels is then a matrix (W * N, C), and moving along the row by j pixels is moving down the matrix by j * N
rows. What tap (i, j) of the filters adds to a row of the output is one matrix product of a run of rows of x with the
matrix w[:, :, i, j], added to what the other taps have given (``blas.add_products``). Nothing is copied, and where a tap
lies over the padding its product is shorter, or absent.

*Columns.* A product over few channels, or a step of more than one pixel along the row, is not worth its call. Then the
windows of some rows of the output are laid out as the columns of one matrix (KH * KW * C, rows * OW * N), small enough for
the cache; as windows that are neighbours share their pixels, those are long contiguous copies.

Rows and taps are independent of each other, so they are shared out among threads (``npadv/parallel.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from npadv import parallel
from npadv.backend import sliding_windows
from npadv.blas import Span, add_products, add_transposed_products

Shape = tuple[int, ...]
Geometry = Any  # conv.Geometry: stride, padding, dilation (pairs for H, W) and groups

LARGE = 4_000_000  # multiplications in a product that is worth a call of its own
FEW_CHANNELS = 12  # with less, on either side, products along the rows are too thin
FEW_ROWS = 64  # the same of pixels in a row times images
TILE = 256, 1024  # rows of a result that are summed up at a time, at least and at most
CACHED = 1 << 17  # elements of the matrix of columns that is made at a time

_scratch = parallel.Scratch()


class Problem(NamedTuple):
    """What all three functions are told: the shapes of images, filters and results, and how they lie to each other."""

    x: Shape
    w: Shape
    y: Shape
    geometry: Geometry


def conv2d(x: Any, w: Any, problem: Problem) -> Any:
    """Return what ``conv.conv2d_forward`` returns."""
    if _thin(problem):
        return _forward_by_columns(x, w, problem)
    x, w = pixels(x), _matrices(w)
    if not _large(problem):
        x, problem = _unfolded(x, problem), _narrow(problem)
        w = w.reshape(problem.w[2], problem.w[1], problem.w[0])
    y = empty_pixels(problem.y, np.result_type(x, w))
    _gather(rows(x), w, rows(y), _tiles(problem, backward=False))
    return images(y)


def input_grad(g: Any, w: Any, problem: Problem) -> Any:
    """Return what ``conv.conv2d_input_grad`` returns."""
    if _thin(problem):
        return _input_grad_by_columns(g, w, problem)
    g, w = pixels(g), _matrices(w)
    narrow = problem if _large(problem) else _narrow(problem)
    w = np.ascontiguousarray(w.reshape(narrow.w[2] * narrow.w[3], narrow.w[1], narrow.w[0]).swapaxes(1, 2))
    dx = empty_pixels(narrow.x, np.result_type(g, w))
    _gather(rows(g), w, rows(dx), _tiles(narrow, backward=True))
    return images(dx if narrow is problem else _folded(dx, problem))


def weight_grad(x: Any, g: Any, problem: Problem) -> Any:
    """Return what ``conv.conv2d_weight_grad`` returns."""
    if _thin(problem):
        return _weight_grad_by_columns(x, g, problem)
    k, c, kh, kw = problem.w
    x, g = pixels(x), pixels(g)
    if not _large(problem):
        x, problem = _unfolded(x, problem), _narrow(problem)
    dw = _gather_weights(rows(x), rows(g), problem)
    return dw.reshape(kh, kw, c, k).transpose(3, 2, 0, 1)


def _thin(problem: Problem) -> bool:
    """Whether products along the rows are not worth their calls: then whole windows are laid out."""
    (n, k, _, width), (_, c, _, _) = problem.y, problem.x
    return problem.geometry.groups > 1 or min(c, k) < FEW_CHANNELS or n * width < FEW_ROWS


def _large(problem: Problem) -> bool:
    """Whether even the product of one tap is worth its call."""
    (n, k, _, width), (_, c, _, _) = problem.y, problem.x
    return problem.geometry.stride[1] == 1 and n * width * c * k >= LARGE


# Memory ---------------------------------------------------------------------------------------------------------------


def pixels(x: Any) -> Any:
    """Return images (N, C, H, W) as a contiguous array (H, W, N, C): a view, if they lie so in memory."""
    return np.ascontiguousarray(x.transpose(2, 3, 0, 1))


def images(p: Any) -> Any:
    """Return pixels (H, W, N, C) as images (N, C, H, W), a view."""
    return p.transpose(2, 3, 0, 1)


def empty_pixels(shape: Shape, dtype: Any) -> Any:
    """Return an array (H, W, N, C) for images of a shape (N, C, H, W)."""
    n, c, h, w = shape
    return np.empty((h, w, n, c), dtype=dtype)


def rows(p: Any) -> Any:
    """Return pixels (H, W, N, C) as one matrix (H * W * N, C)."""
    return p.reshape(-1, p.shape[3])


def _matrices(w: Any) -> Any:
    """Return filters (K, C, KH, KW) as a matrix for each tap: (KH * KW, C, K), contiguous."""
    k, c, kh, kw = w.shape
    return np.ascontiguousarray(w.transpose(2, 3, 1, 0)).reshape(kh * kw, c, k)


# By taps --------------------------------------------------------------------------------------------------------------


def _gather(source: Any, matrices: Any, target: Any, tiles: list[Tile]) -> None:
    """Make each tile of the target the sum of its spans' products."""

    def part(i: int) -> None:
        first, last, spans = tiles[i]
        target[first:last] = 0
        add_products(target, source, matrices, spans)

    parallel.run(part, len(tiles))


def _gather_weights(x: Any, g: Any, problem: Problem) -> Any:
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


Tile = tuple[int, int, list[Span]]
"""Rows first to last of the target, and all that adds to them."""


@lru_cache(maxsize=256)
def _tiles(problem: Problem, backward: bool) -> list[Tile]:
    """Return the rows of y (of x, backward) in tiles, with what each receives from the rows of x (of y)."""
    target = problem.x if backward else problem.y
    row = target[0] * target[3]  # of the matrix, in a row of pixels
    pieces = max(1, row // TILE[1], min(row // TILE[0], -(-16 // target[2])))  # to fit the cache, and to share out
    cuts = [row * piece // pieces for piece in range(pieces + 1)]
    tiles = []
    for r in range(target[2]):
        spans = list(_spans(problem, r, backward))
        for low, high in pairwise(cuts):
            first, last = r * row + low, r * row + high
            tiles.append((first, last, [cut for span in spans if (cut := _within(span, first, last))]))
    return tiles


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


# Along rows -----------------------------------------------------------------------------------------------------------
#
# Between the two: where a tap's product is small, those of one row of the filters make one product together. The images
# are unfolded along their rows, so that each pixel holds all that a row of a filter sees from there, KW * C channels; what
# is left is a narrow problem, with filters one pixel wide, which is done by taps.


def _narrow(problem: Problem) -> Problem:
    """Return the problem that is left when the images have been unfolded."""
    (n, c, height, _), (k, _, kh, kw), y, geometry = problem
    (sh, _), (ph, _), (dh, _), groups, _ = geometry
    return Problem((n, kw * c, height, y[3]), (k, kw * c, kh, 1), y, type(geometry)((sh, 1), (ph, 0), (dh, 1), groups))


def _unfolded(p: Any, problem: Problem) -> Any:
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


def _folded(u: Any, problem: Problem) -> Any:
    """Return the adjoint of ``_unfolded``: each pixel's channels added back to where they were seen."""
    (n, c, height, width), kw = problem.x, problem.w[3]
    u = u.reshape(height, problem.y[3], n, kw, c)
    out = np.zeros((height, width, n, c), dtype=u.dtype)

    def part(some: slice) -> None:
        for j in range(kw):
            inside, seen = _seen(problem, j)
            out[some, seen] += u[some, inside, :, j]

    _halves(part, height, u.size)
    return out


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
    cuts = [0, height // 2, height] if elements > LARGE // 4 else [0, height]
    parallel.run(lambda i: part(slice(cuts[i], cuts[i + 1])), len(cuts) - 1)


# By columns -----------------------------------------------------------------------------------------------------------


def _forward_by_columns(x: Any, w: Any, problem: Problem) -> Any:
    windows = _windows(_padded(x, problem), problem)
    filters = _filters(w, problem)
    y = empty_pixels(problem.y, np.result_type(x, w))
    blocks = _blocks(problem)

    def part(i: int) -> None:
        columns = _columns(windows, blocks[i], problem)
        for group, out in enumerate(_groups(y, blocks[i], problem)):
            np.matmul(columns[group].T, filters[group], out=out)

    parallel.run(part, len(blocks))
    return images(y)


def _weight_grad_by_columns(x: Any, g: Any, problem: Problem) -> Any:
    windows = _windows(_padded(x, problem), problem)
    g = pixels(g)
    blocks = _blocks(problem)
    (k, c, kh, kw), groups = problem.w, problem.geometry.groups
    shares = _shares(len(blocks))
    sums = np.zeros((len(shares), groups, kh * kw * c, k // groups), dtype=np.result_type(x, g))

    def part(i: int) -> None:
        for block in blocks[shares[i]]:
            columns = _columns(windows, block, problem)
            for group, cotangent in enumerate(_groups(g, block, problem)):
                sums[i, group] += columns[group] @ cotangent

    parallel.run(part, len(shares))
    return sums.sum(axis=0).reshape(groups, kh, kw, c, k // groups).transpose(0, 4, 3, 1, 2).reshape(k, c, kh, kw)


def _input_grad_by_columns(g: Any, w: Any, problem: Problem) -> Any:
    filters, g, dtype = _filters(w, problem), pixels(g), np.result_type(g, w)
    (n, channels, h, width), (_, c, kh, kw) = problem.x, problem.w
    (sh, sw), (ph, pw), (dh, dw), groups, _ = problem.geometry
    blocks = _blocks(problem)
    shares = _shares(len(blocks))
    strips: list[Any] = [None] * len(shares)

    def part(i: int) -> None:  # a share's windows reach into its neighbour's: each paints a strip of its own
        own = blocks[shares[i]]
        top, bottom = own[0].top, own[-1].bottom
        height = (bottom - 1 - top) * sh + (kh - 1) * dh + 1
        strip = np.zeros((height, width + 2 * pw, n, groups, c), dtype=dtype)
        for block in own:
            shape = (block.bottom - block.top, block.right - block.left)
            for group, cotangent in enumerate(_groups(g, block, problem)):
                taps = _scratch.array((kh * kw * c, len(cotangent)), dtype)
                np.matmul(filters[group], cotangent.T, out=taps)
                taps = taps.reshape(kh, kw, c, *shape, n)
                for a in range(kh):
                    y0 = (block.top - top) * sh + a * dh
                    for b in range(kw):
                        x0 = block.left * sw + b * dw
                        window = strip[y0 : y0 + sh * shape[0] : sh, x0 : x0 + sw * shape[1] : sw, :, group]
                        window += taps[a, b].transpose(1, 2, 3, 0)
        strips[i] = top * sh, strip.reshape(height, width + 2 * pw, n, channels)

    parallel.run(part, len(shares))
    dx = np.zeros((h + 2 * ph, width + 2 * pw, n, channels), dtype=dtype)
    for top, strip in strips:
        dx[top : top + len(strip)] += strip
    return images(np.ascontiguousarray(dx[ph : ph + h, pw : pw + width]))


class Block(NamedTuple):
    """A rectangle of the output, in pixels; part of one row, or some whole rows."""

    top: int
    bottom: int
    left: int
    right: int


@lru_cache(maxsize=256)
def _blocks(problem: Problem) -> list[Block]:
    """Return the output in blocks whose columns fit the cache, or at least whose rows are not smaller than needed."""
    n, _, height, width = problem.y
    _, c, kh, kw = problem.w
    fit = max(1, CACHED // (max(1, n) * kh * kw * c * problem.geometry.groups))  # pixels
    if fit >= width:
        step = min(fit // width, max(1, height // 8))
        return [Block(top, min(top + step, height), 0, width) for top in range(0, height, step)]
    pieces = -(-width // max(fit, 4))
    cuts = [width * piece // pieces for piece in range(pieces + 1)]
    edges = list(pairwise(cuts))
    return [Block(top, top + 1, left, right) for top in range(height) for left, right in edges]


def _shares(blocks: int, count: int = 16) -> list[slice]:
    """Return some consecutive blocks for each part: as many parts on every machine, so that sums do not depend on it."""
    count = min(count, blocks)
    return [slice(blocks * i // count, blocks * (i + 1) // count) for i in range(count)]


def _padded(x: Any, problem: Problem) -> Any:
    """Return pixels with zeros around them."""
    ph, pw = problem.geometry.padding
    if ph == pw == 0:
        return pixels(x)
    n, c, h, w = x.shape
    padded = np.zeros((h + 2 * ph, w + 2 * pw, n, c), dtype=x.dtype)
    padded[ph : ph + h, pw : pw + w] = x.transpose(2, 3, 0, 1)
    return padded


def _windows(p: Any, problem: Problem) -> Any:
    """Return a view of pixels as (groups, KH, KW, C/groups, OH, OW, N): what each tap sees of each window."""
    (sh, sw), _, (dh, dw), groups, _ = problem.geometry
    _, c, kh, kw = problem.w
    seen = sliding_windows(p, (dh * (kh - 1) + 1, dw * (kw - 1) + 1), axis=(0, 1))
    seen = seen[::sh, ::sw, :, :, ::dh, ::dw]  # (OH, OW, N, channels, KH, KW)
    seen = seen.reshape(*seen.shape[:3], groups, c, kh, kw)  # splitting an axis copies nothing
    return seen.transpose(3, 5, 6, 4, 0, 1, 2)


def _columns(windows: Any, block: Block, problem: Problem) -> Any:
    """Return the windows of a block as columns: (groups, KH * KW * C/groups, pixels * N), in kept memory."""
    seen = windows[..., block.top : block.bottom, block.left : block.right, :]
    columns = _scratch.array(seen.shape, seen.dtype)
    np.copyto(columns, seen)
    groups, kh, kw, c = seen.shape[:4]
    return columns.reshape(groups, kh * kw * c, -1)


def _filters(w: Any, problem: Problem) -> Any:
    """Return filters as one matrix for each group: (groups, KH * KW * C/groups, K/groups)."""
    (k, c, kh, kw), groups = w.shape, problem.geometry.groups
    return w.reshape(groups, k // groups, c, kh, kw).transpose(0, 3, 4, 2, 1).reshape(groups, kh * kw * c, k // groups)


def _groups(p: Any, block: Block, problem: Problem) -> Iterator[Any]:
    """Yield, for each group, the rows (pixels * N, K/groups) of a block of the output."""
    matrix = p[block.top : block.bottom, block.left : block.right].reshape(-1, p.shape[3])  # a view: see Block
    size = p.shape[3] // problem.geometry.groups
    for group in range(problem.geometry.groups):
        yield matrix[:, group * size : (group + 1) * size]
