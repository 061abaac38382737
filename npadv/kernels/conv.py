"""Convolution and its two gradients, by one of four kernels: ``kernels/conv2d_1_direct.cu`` to ``conv2d_4_split_k.cu``.

Each of the three is a matrix product. It has a row for each filter of a group (input gradient: for each channel), a column
for each pixel of all images (weight gradient: for each weight of a filter), and ``depth`` terms in each sum. These three
sizes alone decide the version, so that a shape is always computed by the same one:

=======  =====================================================================================================
version  chosen when
=======  =====================================================================================================
1        fewer than 8 rows or 8 terms would leave tiles nearly empty; or the number of a column does not fit
         in 31 bits
4        the rows fill at most half of version 3's tile (32), or there are fewer tiles of version 3 than two
         for each of the 132 multiprocessors of a large GPU
3        otherwise
=======  =====================================================================================================

Version 2 is there to be read and is never chosen by itself; ``version=`` chooses any of them. The versions add up in different
orders, so their results differ by rounding. Each returns the same bits on every run.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from npadv.kernels.launch import INT_MAX, check_arrays, contiguous, covering, empty, integer, launch

__all__ = ["choose_version", "conv2d", "conv2d_input_grad", "conv2d_weight_grad"]

FILES = {1: "conv2d_1_direct", 2: "conv2d_2_tiles", 3: "conv2d_3_registers", 4: "conv2d_4_split_k"}
TILES = {2: (16, 16), 3: (64, 128), 4: (32, 64)}  # rows and columns of the results that a block computes
_ENOUGH_BLOCKS = 2 * 132
_LEAST_TERMS = 64  # in a part of a sum; fewer are not worth a block
_STEP = 8  # a part is a whole number of the tiles' depth


def conv2d(
    x: Any,
    w: Any,
    *,
    bias: Any = None,
    relu: bool = False,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    version: int | None = None,
) -> Any:
    """Return ``y = x * w``, the two-dimensional cross-correlation of images and filters, with bias and ReLU.

    ``y[n,k,i,j] = bias[k] + sum over c,a,b of x[n, c, i*sh - ph + a*dh, j*sw - pw + b*dw] * w[k,c,a,b]``, ``x`` zero
    outside. With ``relu`` negative results are replaced by 0.

    Parameters
    ----------
    x : cupy.ndarray, (N, C, H, W)
        The images, float32 or float64; made contiguous if they are not, as ``w`` is.
    w : cupy.ndarray, (K, C/groups, KH, KW)
        The filters, of the dtype and device of ``x``.
    bias : cupy.ndarray, (K,), optional
        A number for each filter, of the dtype and device of ``x``.
    relu : bool
        Whether to replace negative results by 0; NaN stays.
    stride, padding, dilation : (int, int)
        Of height and width; padding is on both sides.
    groups : int
        The number of equal parts of channels and filters; a filter sees the channels of its own part.
    version : 1, 2, 3 or 4, optional
        The kernel that computes it; by default :func:`choose_version` chooses.

    Returns
    -------
    cupy.ndarray, (N, K, OH, OW)
        ``OH = (H + 2*ph - dh*(KH - 1) - 1) // sh + 1``, likewise ``OW``. The same bits on every run.

    Raises
    ------
    TypeError, ValueError
        An argument is not as above, or the filter is larger than the padded image; nothing has been launched.
    RuntimeError
        CuPy is not installed or sees no GPU.
    """
    name = "conv2d"
    check_arrays(name, {"x": x, "w": w} if bias is None else {"x": x, "w": w, "bias": bias})
    s = _sizes(name, ("x.shape", x.shape), ("w.shape", w.shape), stride, padding, dilation, groups)
    if bias is not None and bias.shape != (s.K,):
        raise ValueError(f"{name}: bias must have the shape (K,) = {(s.K,)}, got {bias.shape}")
    if not isinstance(relu, bool):
        raise TypeError(f"{name}: relu must be True or False, got {relu!r}")
    product = _Product(s.K // groups, s.N * s.OH * s.OW, s.C // groups * s.KH * s.KW)
    end = {"bias": None if bias is None else contiguous(bias), "relu": int(relu)}
    return _compute("conv2d", "forward", {"x": x, "w": w}, ("y", (s.N, s.K, s.OH, s.OW)), s, product, version, end)


def conv2d_input_grad(
    g: Any,
    w: Any,
    input_shape: tuple[int, ...],
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    version: int | None = None,
) -> Any:
    """Return ``dL/dx``, of shape ``input_shape``, from ``g = dL/dy`` where ``y = conv2d(x, w, ...)``.

    As a map of ``g`` it is the adjoint of :func:`conv2d` as a map of ``x``: ``<g, conv2d(x, w)> = <this, x>``.
    Arguments and errors are those of :func:`conv2d`; ``g`` must have the shape of ``y``.
    """
    name = "conv2d_input_grad"
    check_arrays(name, {"g": g, "w": w})
    s = _sizes(name, ("input_shape", input_shape), ("w.shape", w.shape), stride, padding, dilation, groups)
    _check_cotangent(name, g, s)
    product = _Product(s.C // groups, s.N * s.H * s.W, s.K // groups * s.KH * s.KW)
    return _compute(name, "input_grad", {"g": g, "w": w}, ("gx", (s.N, s.C, s.H, s.W)), s, product, version)


def conv2d_weight_grad(
    x: Any,
    g: Any,
    weight_shape: tuple[int, ...],
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    version: int | None = None,
) -> Any:
    """Return ``dL/dw``, of shape ``weight_shape``, from ``g = dL/dy`` where ``y = conv2d(x, w, ...)``.

    As a map of ``g`` it is the adjoint of :func:`conv2d` as a map of ``w``: ``<g, conv2d(x, w)> = <this, w>``.
    Arguments and errors are those of :func:`conv2d`; ``g`` must have the shape of ``y``.
    """
    name = "conv2d_weight_grad"
    check_arrays(name, {"x": x, "g": g})
    s = _sizes(name, ("x.shape", x.shape), ("weight_shape", weight_shape), stride, padding, dilation, groups)
    _check_cotangent(name, g, s)
    product = _Product(s.K // groups, s.C // groups * s.KH * s.KW, s.N * s.OH * s.OW)
    return _compute(
        name, "weight_grad", {"x": x, "g": g}, ("gw", (s.K, s.C // groups, s.KH, s.KW)), s, product, version
    )


# ---------------------------------------------------------------------------------------------- the choice of a version


class _Product(NamedTuple):
    """The sizes of the matrix product that computes the convolution of a group."""

    rows: int
    columns: int
    depth: int

    def blocks(self, tile: tuple[int, int]) -> tuple[int, int]:
        """Return the number of tiles along the columns and along the rows."""
        return -(-self.columns // tile[1]), -(-self.rows // tile[0])


def choose_version(rows: int, columns: int, depth: int, groups: int = 1) -> int:
    """Return the version that computes a product of these sizes for each group, by the rule at the head of this file.

    >>> choose_version(rows=1, columns=128 * 28 * 28, depth=9, groups=64)  # one filter for each channel
    1
    >>> choose_version(rows=128, columns=128 * 32 * 32, depth=128 * 9)
    3
    >>> choose_version(rows=64, columns=32 * 25, depth=128 * 14 * 14)  # a weight gradient: few results, long sums
    4
    """
    product = _Product(rows, columns, depth)
    if rows < 8 or depth < 8 or not _fits(product, groups):
        return 1
    wide, high = product.blocks(TILES[3])
    return 4 if rows <= TILES[4][0] or wide * high * groups < _ENOUGH_BLOCKS else 3


def _fits(product: _Product, groups: int) -> bool:
    """Whether the tiled versions can count the product's columns and terms in an int, and its groups in a grid."""
    margin = 2 * max(TILES[3])  # they compute indices past the last column and term before they compare
    return (
        max(product.columns, product.depth) <= INT_MAX - margin and max(groups, product.blocks(TILES[2])[1]) <= 65_535
    )


def _compute(
    name: str,
    which: str,
    inputs: dict[str, Any],
    output: tuple[str, tuple[int, ...]],
    sizes: _Sizes,
    product: _Product,
    version: int | None,
    end: dict[str, Any] | None = None,
) -> Any:
    """Launch a version of ``conv2d_<which>``; ``end`` has the bias and ReLU that the forward kernel applies to each sum."""
    if version is None:
        version = choose_version(*product, sizes.groups)
    elif version not in FILES:
        raise ValueError(f"{name}: version must be one of {', '.join(map(str, FILES))}, got {version!r}")
    elif version > 1 and not _fits(product, sizes.groups):
        raise ValueError(f"{name}: version must be 1 for a convolution of more than 2**31 columns, got {version}")
    like = next(iter(inputs.values()))
    out = empty(like, output[1])
    if not out.size:
        return out
    arrays, file, kernel = {n: contiguous(a) for n, a in inputs.items()}, FILES[version], f"conv2d_{which}"
    arguments = {**arrays, **sizes._asdict()}
    if version == 4:
        _in_parts(f"{kernel}_parts", arguments, out, sizes, product, end or {"bias": None, "relu": 0})
        return out
    arguments |= {output[0]: out, **(end or {})}
    if version == 1:
        launch(file, kernel, arguments, blocks=covering(out.size))
    else:
        launch(file, kernel, arguments, blocks=(*product.blocks(TILES[version]), sizes.groups), threads=256)
    return out


def _in_parts(
    kernel: str, arguments: dict[str, Any], out: Any, s: _Sizes, product: _Product, end: dict[str, Any]
) -> None:
    """Launch version 4: one kernel for the parts of every sum, and one that adds them."""
    wide, high = product.blocks(TILES[4])
    wanted = -(-_ENOUGH_BLOCKS // (wide * high * s.groups))
    wanted = max(1, min(wanted, product.depth // _LEAST_TERMS))
    terms = max(_STEP, -(-product.depth // (wanted * _STEP)) * _STEP)
    count = max(1, -(-product.depth // terms))
    parts = out if count == 1 else empty(out, (count, *out.shape))  # a single part is the sum itself
    arguments |= {"parts": parts, "results": out.size, "terms": terms}
    launch(FILES[4], kernel, arguments, blocks=(wide, high, s.groups * count), threads=128)
    if count > 1 or end["bias"] is not None or end["relu"]:
        sums = {"parts": parts, "y": out, "count": count, "results": out.size, "channels": out.shape[1]}
        sums |= {"pixels": out.shape[2] * out.shape[3], **end}
        launch(FILES[4], "conv2d_sum_parts", sums, blocks=covering(out.size))


# ------------------------------------------------------------------------------------------ checks of arguments


class _Sizes(NamedTuple):
    """The integers every kernel takes, in the order of its signature."""

    N: int
    C: int
    H: int
    W: int
    K: int
    KH: int
    KW: int
    OH: int
    OW: int
    sh: int
    sw: int
    ph: int
    pw: int
    dh: int
    dw: int
    groups: int


def _check_cotangent(name: str, g: Any, s: _Sizes) -> None:
    if g.shape != (s.N, s.K, s.OH, s.OW):
        raise ValueError(f"{name}: g must have the shape of conv2d(x, w), {(s.N, s.K, s.OH, s.OW)}, got {g.shape}")


def _integers(name: str, which: str, value: Any, layout: str, least: int) -> list[int]:
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{name}: {which} must be a tuple {layout}, got {value!r}")
    if len(value) != layout.count(",") + 1:
        raise ValueError(f"{name}: {which} must be {layout}, got {value!r}")
    return [integer(name, f"{which}[{i}]", v, least=least) for i, v in enumerate(value)]


def _sizes(
    name: str, x: tuple[str, Any], w: tuple[str, Any], stride: Any, padding: Any, dilation: Any, groups: Any
) -> _Sizes:
    """Return the integers of a convolution from two shapes, each given with its name for messages, or raise."""
    N, C, H, W = _integers(name, *x, "(N, C, H, W)", 0)
    K, CG, KH, KW = _integers(name, *w, "(K, C/groups, KH, KW)", 0)
    sh, sw = _integers(name, "stride", stride, "(height, width)", 1)
    ph, pw = _integers(name, "padding", padding, "(height, width)", 0)
    dh, dw = _integers(name, "dilation", dilation, "(height, width)", 1)
    groups = integer(name, "groups", groups, least=1)
    if C % groups or K % groups:
        raise ValueError(f"{name}: groups must divide both C = {C} and K = {K}, got {groups}")
    if C // groups != CG:
        raise ValueError(f"{name}: {w[0]} must have C/groups = {C}/{groups} = {C // groups} as its second, got {CG}")
    if KH < 1 or KW < 1:
        raise ValueError(f"{name}: {w[0]} must have windows of at least 1x1, got {KH}x{KW}")
    high, wide = (
        H + 2 * ph,
        W + 2 * pw,
    )  # of the padded image: every row and column that the kernels compute is below these
    if max(high, wide) > INT_MAX:
        raise ValueError(f"{name}: padding must keep the image's sides below 2**31, got {high}x{wide}")
    window_high, window_wide = dh * (KH - 1) + 1, dw * (KW - 1) + 1
    if window_high > high or window_wide > wide:
        raise ValueError(
            f"{name}: {w[0]} must have windows that fit in the padded image, {high}x{wide}, "
            f"got {KH}x{KW} dilated to {window_high}x{window_wide}"
        )
    OH, OW = (high - window_high) // sh + 1, (wide - window_wide) // sw + 1
    return _Sizes(N, C, H, W, K, KH, KW, OH, OW, sh, sw, ph, pw, dh, dw, groups)
