"""Convolution on the kernels, all four versions of it, against a loop over windows."""

import itertools

import fake_cupy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import every_way, needs_compiler
from kernel_mutations import Elsewhere, breaks_without_a_barrier

from npadv import kernels
from npadv.backend import to_numpy
from npadv.kernels import conv, cpu

versions = pytest.mark.parametrize("version", [1, 2, 3, 4])


def naive_conv2d(x, w, g, stride, padding, dilation, groups):
    """y, dL/dx and dL/dw window by window: cut one out, multiply, and put the gradients back where it was cut."""
    (sh, sw), (ph, pw), (dh, dw) = stride, padding, dilation
    (N, _, H, W), (K, CG, KH, KW) = x.shape, w.shape
    padded = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    OH = (padded.shape[2] - dh * (KH - 1) - 1) // sh + 1
    OW = (padded.shape[3] - dw * (KW - 1) - 1) // sw + 1
    y, gx, gw = np.zeros((N, K, OH, OW)), np.zeros(padded.shape), np.zeros(w.shape)
    g = np.zeros(y.shape) if g is None else g
    for k, oh, ow in itertools.product(range(K), range(OH), range(OW)):
        first = k // (K // groups) * CG
        window = (
            slice(None),
            slice(first, first + CG),
            slice(oh * sh, oh * sh + dh * (KH - 1) + 1, dh),
            slice(ow * sw, ow * sw + dw * (KW - 1) + 1, dw),
        )
        y[:, k, oh, ow] = (padded[window] * w[k]).sum((1, 2, 3))
        gx[window] += g[:, k, oh, ow, None, None, None] * w[k]
        gw[k] += (g[:, k, oh, ow, None, None, None] * padded[window]).sum(0)
    return y, gx[:, :, ph : ph + H, pw : pw + W], gw


@st.composite
def convolutions(draw):
    """x, w, g, bias and the keywords of a convolution, in whole numbers so small that every sum is exact in its precision."""
    small = st.integers(1, 3)
    N, groups = draw(st.integers(0, 2)), draw(small)
    C, K = (groups * draw(st.sampled_from([0, 1, 2, 5])) for _ in "CK")
    KH, KW, sh, sw, dh, dw = (draw(small) for _ in range(6))
    ph, pw = draw(st.integers(0, 3)), draw(st.integers(0, 3))
    sides = st.sampled_from([0, 1, 2, 3, 5, 6, 8, 31, 33])
    H = draw(sides.filter(lambda side: side + 2 * ph > dh * (KH - 1)))
    W = draw(sides.filter(lambda side: side + 2 * pw > dw * (KW - 1)))
    how = {"stride": (sh, sw), "padding": (ph, pw), "dilation": (dh, dw), "groups": groups}
    return whole_numbers(draw, (N, C, H, W), (K, C // groups, KH, KW), how)


@st.composite
def matrices(draw):
    """Convolutions whose matrix products end just before, at and just after the edges of tiles."""
    K, C = draw(st.sampled_from([31, 33, 64, 65])), draw(st.sampled_from([1, 7, 9]))
    H, W = draw(st.sampled_from([(1, 63), (1, 64), (5, 13), (1, 129)]))
    KH, KW = draw(st.sampled_from([(1, 1), (1, 2)]))
    return whole_numbers(draw, (1, C, H, W), (K, C, KH, KW), {})


def whole_numbers(draw, x_shape, w_shape, how):
    # Products below 2^8 in float32 and below 2^40 in float64: a double kernel that adds in float is caught.
    real, most = draw(st.sampled_from([(np.float32, 2**4), (np.float64, 2**20)]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    how = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1, **how}
    x, w = (rng.integers(-most, most, shape).astype(real) for shape in (x_shape, w_shape))
    g = rng.integers(-most, most, naive_conv2d(x, w, None, **how)[0].shape).astype(real)
    return x, w, g, rng.integers(-most, most, w_shape[0]).astype(real), how


def agree(xp, case, version, checked):
    x, w, g, bias, how = case
    y, gx, gw = naive_conv2d(x, w, g, **how)

    def run():
        dx, dw, dg, db = map(xp.asarray, (x, w, g, bias))
        results = (
            kernels.conv2d(dx, dw, version=version, **how),
            kernels.conv2d(dx, dw, bias=db, relu=True, version=version, **how),
            kernels.conv2d_input_grad(dg, dw, x.shape, version=version, **how),
            kernels.conv2d_weight_grad(dx, dg, w.shape, version=version, **how),
        )
        assert all(isinstance(result, xp.ndarray) for result in results)
        return results

    expected = [y, np.maximum(y + bias[:, None, None], 0), gx, gw]
    for result, correct in zip(every_way(run, xp, checked=checked), expected, strict=True):
        assert result.dtype == x.dtype
        assert result.shape == correct.shape
        np.testing.assert_array_equal(result, correct)


@versions
@settings(max_examples=25)
@given(case=convolutions())
def test_convolution_and_its_gradients_are_the_naive_loop(xp, version, case):
    agree(xp, case, version, checked=case[0].size <= 500)


@versions
@settings(max_examples=6)
@given(case=matrices())
def test_the_edges_of_tiles_are_no_edges_of_the_result(xp, version, case):
    agree(xp, case, version, checked=case[0].size * len(case[1]) <= 64 * 64)


@settings(max_examples=20)
@given(case=convolutions())
def test_the_version_that_is_chosen_is_right_too(xp, case):
    agree(xp, case, None, checked=False)


@pytest.mark.parametrize("which", ["forward", "input_grad", "weight_grad"])
def test_sums_cut_into_parts_are_the_sums(xp, which):
    """Few results of many terms, so that version 4 has several parts, the last one shorter."""
    rng = np.random.default_rng(0)
    x, w = rng.integers(-9, 9, (3, 40, 9, 8)).astype(float), rng.integers(-9, 9, (41, 40, 3, 3)).astype(float)
    g = rng.integers(-9, 9, (3, 41, 7, 6)).astype(float)
    y, gx, gw = naive_conv2d(x, w, g, (1, 1), (0, 0), (1, 1), 1)
    bias = rng.integers(-99, 99, 41).astype(float)

    def run():
        dx, dw, dg, db = map(xp.asarray, (x, w, g, bias))
        if which == "forward":
            return kernels.conv2d(dx, dw, bias=db, relu=True, version=4)
        if which == "input_grad":
            return kernels.conv2d_input_grad(dg, dw, x.shape, version=4)
        return kernels.conv2d_weight_grad(dx, dg, w.shape, version=4)

    expected = {"forward": np.maximum(y + bias[:, None, None], 0), "input_grad": gx, "weight_grad": gw}[which]
    (result,) = every_way(run, xp, checked=which == "weight_grad")
    np.testing.assert_array_equal(result, expected)


@versions
def test_convolution_takes_strided_views(xp, version):
    rng = np.random.default_rng(0)
    x = rng.integers(-9, 9, (6, 5, 2, 3)).astype(float)  # images kept as (H, W, C, N)
    w = rng.integers(-9, 9, (3, 3, 2, 4)).astype(float)  # filters kept as (KH, KW, C, K)
    y, _, _ = naive_conv2d(x.transpose(3, 2, 0, 1), w.transpose(3, 2, 0, 1), None, (1, 1), (1, 1), (1, 1), 1)
    dx, dw = xp.asarray(x).transpose(3, 2, 0, 1), xp.asarray(w).transpose(3, 2, 0, 1)
    assert not dx.flags.c_contiguous
    np.testing.assert_array_equal(to_numpy(kernels.conv2d(dx, dw, padding=(1, 1), version=version)), y)


@versions
def test_relu_cuts_off_what_is_negative_and_lets_nan_through(xp, version):
    x = np.array([1.0, -1.0, np.nan, np.inf, -np.inf, 0.0]).reshape(1, 1, 1, 6)
    y = kernels.conv2d(xp.asarray(x), xp.asarray(np.ones((1, 1, 1, 1))), relu=True, version=version)
    np.testing.assert_array_equal(to_numpy(y).ravel(), [1.0, 0.0, np.nan, np.inf, 0.0, 0.0])


@versions
def test_a_tap_over_the_padding_reads_nothing(xp, version):
    """What lies beside the image in memory is the next row, channel or image: here NaN."""
    x = np.full((3, 3, 4, 4), np.nan, np.float32)
    x[1, 1] = 1
    w = np.zeros((1, 3, 3, 3), np.float32)
    dx, dw = xp.asarray(np.ascontiguousarray(x[1:2, 1:2])), xp.asarray(np.ascontiguousarray(w[:, :1] + 1))
    y = to_numpy(kernels.conv2d(dx, dw, padding=(1, 1), version=version))
    np.testing.assert_array_equal(y[0, 0], [[4, 6, 6, 4], [6, 9, 9, 6], [6, 9, 9, 6], [4, 6, 6, 4]])


# Every barrier of every version is needed: without it the watched build reports a race or an uninitialised value.
BARRIERS = [("conv2d_2_tiles", 2, 0), ("conv2d_2_tiles", 2, 1)]
BARRIERS += [(conv.FILES[version], version, which) for version in (3, 4) for which in range(3)]


@needs_compiler
@pytest.mark.parametrize(("file", "version", "which"), BARRIERS)
def test_no_barrier_can_be_left_out(file, version, which):
    x, g = np.ones((1, 4, 5, 5)), np.ones((1, 9, 3, 3))

    def run():
        kernels.conv2d(x, np.ones((9, 4, 3, 3)), version=version)
        kernels.conv2d_weight_grad(x, g, (9, 4, 3, 3), version=version)

    breaks_without_a_barrier(file, which, run)


# ---------------------------------------------------------------------------------------------- which kernel, and how


@pytest.fixture
def recorder():
    """A stand-in for CuPy, whose kernels run on one block only: launches are what is looked at here."""
    with fake_cupy.installed(), cpu.running(block=(0, 0, 0)):
        yield fake_cupy


def device(*shape, dtype="float32", number=0):
    return fake_cupy.ndarray(np.zeros(shape, dtype), number)


@needs_compiler
@pytest.mark.parametrize(
    ("x", "w", "chosen"),
    [
        ((2, 4, 9, 8), (6, 4, 3, 3), [1, 1, 1]),  # 6 filters, 4 channels: thin
        ((2, 40, 9, 8), (40, 40, 3, 3), [4, 4, 4]),  # few pixels
        ((2, 64, 30, 30), (16, 64, 1, 1), [4, 4, 4]),  # 16 filters: half a tile of version 3; its gradients: small
        ((19, 40, 43, 43), (40, 40, 1, 1), [3, 3, 4]),
    ],
)
def test_the_version_is_chosen_by_shape(recorder, x, w, chosen):
    y = (x[0], w[0], x[2] - w[2] + 1, x[3] - w[3] + 1)
    dx, dw, dg = device(*x), device(*w), device(*y)
    kernels.conv2d(dx, dw)
    kernels.conv2d_input_grad(dg, dw, x)
    kernels.conv2d_weight_grad(dx, dg, w)
    names = [name for name, *_ in recorder.LAUNCHES if name != "conv2d_sum_parts"]
    threads = {1: 256, 3: 256, 4: 128}
    for name, base, version in zip(
        names, ("conv2d_forward", "conv2d_input_grad", "conv2d_weight_grad"), chosen, strict=True
    ):
        assert name == base + "_parts" * (version == 4)
    blocks = [block for name, _, block, _ in recorder.LAUNCHES if name != "conv2d_sum_parts"]
    assert blocks == [(threads[version],) for version in chosen]


@given(st.integers(0, 3000), st.integers(0, 3000), st.integers(0, 3000), st.integers(1, 100))
def test_a_choice_is_among_the_versions_and_thin_products_go_the_direct_way(rows, columns, depth, groups):
    version = conv.choose_version(rows, columns, depth, groups)
    assert version in (1, 3, 4)
    assert (version == 1) == (rows < 8 or depth < 8)


def test_what_cannot_be_counted_in_31_bits_goes_the_direct_way():
    assert conv.choose_version(64, 2**31 - 1, 100) == 1
    assert conv.choose_version(64, 100, 2**31 - 1) == 1
    assert conv.choose_version(64, 2**31 - 1000, 100) == 3
    assert conv.choose_version(64, 100, 100, groups=65_536) == 1


@needs_compiler
@settings(max_examples=30)
@given(st.integers(1, 300), st.integers(1, 20), st.integers(1, 12))
def test_parts_are_whole_tiles_of_the_depth_and_cover_it(channels, side, filters):
    with fake_cupy.installed(), cpu.running(block=(0, 0, 0)):
        kernels.conv2d(device(1, channels, 1, side), device(filters, channels, 1, 1), version=4)
        (name, grid, _, args), *rest = fake_cupy.LAUNCHES
    assert name == "conv2d_forward_parts"
    terms, parts = int(args[4]), grid[2]
    assert terms % 8 == 0
    assert (parts - 1) * terms < channels <= parts * terms
    assert parts == 1 or terms >= 64
    assert bool(rest) == (parts > 1)


@needs_compiler
def test_each_function_launches_its_kernel_once_with_its_sizes(recorder):
    x, w, g = device(2, 4, 9, 8), device(6, 2, 3, 2), device(2, 6, 5, 7)
    how = {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 1), "groups": 2, "version": 1}
    outs = [
        kernels.conv2d(x, w, **how),
        kernels.conv2d_input_grad(g, w, (2, 4, 9, 8), **how),
        kernels.conv2d_weight_grad(x, g, (6, 2, 3, 2), **how),
    ]
    assert [out.shape for out in outs] == [(2, 6, 5, 7), (2, 4, 9, 8), (6, 2, 3, 2)]
    assert [launch[0] for launch in recorder.LAUNCHES] == ["conv2d_forward", "conv2d_input_grad", "conv2d_weight_grad"]
    for (_, (blocks,), (threads,), args), out in zip(recorder.LAUNCHES, outs, strict=True):
        assert any(arg is out for arg in args)
        assert list(args[-16:] if args[2] is out else args[-17:-1]) == [2, 4, 9, 8, 6, 3, 2, 5, 7, 2, 1, 1, 0, 1, 1, 2]
        assert blocks * threads >= out.size


@versions
def test_nothing_is_launched_for_no_elements(recorder, version):
    assert kernels.conv2d(device(0, 1, 5, 5), device(2, 1, 3, 3), version=version).shape == (0, 2, 3, 3)
    assert recorder.LAUNCHES == []
    assert recorder.COUNTS["compiled"] == 0


# ---------------------------------------------------------------------------------------------- wrong arguments

X, W, G = device(2, 4, 6, 5), device(6, 4, 3, 3), device(2, 6, 4, 3)

WRONG_CONVOLUTIONS = {
    "x must be a cupy.ndarray, got numpy.ndarray; NPADV_KERNELS=cpu": ((np.zeros(3), W), {}, TypeError),
    "w must be a cupy.ndarray, got list": ((X, [0.0]), {}, TypeError),
    "x must be float32 or float64, got int32": ((device(2, 4, 6, 5, dtype="int32"), W), {}, TypeError),
    "w must have the dtype of x, float32": ((X, device(6, 4, 3, 3, dtype="float64")), {}, TypeError),
    "w must be on the device of x, <CUDA Device 0>, got <CUDA Device 1>": (
        (X, device(6, 4, 3, 3, number=1)),
        {},
        ValueError,
    ),
    "x.shape must be (N, C, H, W), got (4, 6, 5)": ((device(4, 6, 5), W), {}, ValueError),
    "w.shape must be (K, C/groups, KH, KW), got (4,)": ((X, device(4)), {}, ValueError),
    "w.shape must have C/groups = 4/1 = 4 as its second, got 3": ((X, device(6, 3, 3, 3)), {}, ValueError),
    "w.shape must have windows of at least 1x1, got 0x3": ((X, device(6, 4, 0, 3)), {}, ValueError),
    "bias must be a cupy.ndarray, got float": ((X, W), {"bias": 1.0}, TypeError),
    "bias must have the dtype of x, float32, got float64": ((X, W), {"bias": device(6, dtype="float64")}, TypeError),
    "bias must have the shape (K,) = (6,), got (6, 1)": ((X, W), {"bias": device(6, 1)}, ValueError),
    "relu must be True or False, got 1": ((X, W), {"relu": 1}, TypeError),
    "groups must divide both C = 4 and K = 6, got 4": ((X, W), {"groups": 4}, ValueError),
    "groups must be an integer from 1 to 2**31 - 1, got 0": ((X, W), {"groups": 0}, ValueError),
    "groups must be an integer, got 1.0": ((X, W), {"groups": 1.0}, TypeError),
    "stride must be a tuple (height, width), got 2": ((X, W), {"stride": 2}, TypeError),
    "stride must be (height, width), got (1, 1, 1)": ((X, W), {"stride": (1, 1, 1)}, ValueError),
    "stride[1] must be an integer from 1 to 2**31 - 1, got 0": ((X, W), {"stride": (1, 0)}, ValueError),
    "stride[0] must be an integer from 1 to 2**31 - 1": ((X, W), {"stride": (2**31, 1)}, ValueError),
    "padding[0] must be an integer from 0 to 2**31 - 1": ((X, W), {"padding": (-1, 0)}, ValueError),
    "padding must keep the image's sides below 2**31": ((X, W), {"padding": (2**30, 0)}, ValueError),
    "dilation[1] must be an integer from 1": ((X, W), {"dilation": (1, 0)}, ValueError),
    "version must be one of 1, 2, 3, 4, got 5": ((X, W), {"version": 5}, ValueError),
    "w.shape must have windows that fit in the padded image, 6x5, got 3x3 dilated to 3x7": (
        (X, W),
        {"dilation": (1, 3)},
        ValueError,
    ),
}
WRONG_INPUT_GRADS = {
    "g must have the shape of conv2d(x, w), (2, 6, 4, 4), got (2, 6, 4, 3)": ((G, W, (2, 4, 6, 6)), {}, ValueError),
    "input_shape must be (N, C, H, W), got (4, 6, 5)": ((G, W, (4, 6, 5)), {}, ValueError),
    "input_shape[3] must be an integer, got 5.0": ((G, W, (2, 4, 6, 5.0)), {}, TypeError),
}
WRONG_WEIGHT_GRADS = {
    "g must have the shape of conv2d(x, w), (2, 7, 4, 3), got (2, 6, 4, 3)": ((X, G, (7, 4, 3, 3)), {}, ValueError),
    "weight_shape must have C/groups = 4/1 = 4 as its second, got 2": ((X, G, (6, 2, 3, 3)), {}, ValueError),
}
WRONG = {
    kernels.conv2d: WRONG_CONVOLUTIONS,
    kernels.conv2d_input_grad: WRONG_INPUT_GRADS,
    kernels.conv2d_weight_grad: WRONG_WEIGHT_GRADS,
}


@pytest.mark.parametrize(
    ("function", "message"), [(f, message) for f, messages in WRONG.items() for message in messages]
)
def test_a_wrong_argument_is_named_and_nothing_is_launched(recorder, function, message):
    args, how, error = WRONG[function][message]
    with pytest.raises(error) as raised:
        function(*args, **how)
    assert str(raised.value).startswith(f"{function.__name__}: {message}")
    assert recorder.LAUNCHES == []


@needs_compiler
def test_the_arguments_of_the_wrong_examples_are_right_but_for_one(recorder):
    kernels.conv2d(X, W, bias=device(6), relu=True)
    kernels.conv2d_input_grad(G, W, [2, 4, 6, 5])
    kernels.conv2d_weight_grad(X, G, (6, 4, 3, 3))
    assert len(recorder.LAUNCHES) == 3


def test_numpy_arrays_on_two_devices_are_refused(monkeypatch):
    monkeypatch.setenv("NPADV_KERNELS", "cpu")
    with pytest.raises(ValueError, match="w must be on the device of x, cpu, got elsewhere"):
        kernels.conv2d(np.zeros((1, 1, 3, 3)), np.zeros((1, 1, 3, 3)).view(Elsewhere))
