"""The fast paths equal their plain oracles: for all shapes and layouts, on several threads, and after an exception."""

import contextlib
import os
import subprocess
import sys
import threading
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import arrays, images

from npadv import Tensor, attacks, grad, nn, ops, optim
from npadv.defenses import adversarial_training
from npadv.fast import blas, im2col, memory, parallel, row_im2col, shifted_gemm, winograd
from npadv.fast import conv as fast
from npadv.fast.layout import Problem, pixels
from npadv.functional import cross_entropy
from npadv.ops import conv, linalg
from npadv.ops.conv import conv_geometry, output_shape
from npadv.testing import check_grads
from npadv.train import classification_loss, gradient_update

# The ways of ops/fast: settings that leave it no choice.
ALL_ROWS = [(fast, "FEW_CHANNELS", 0), (fast, "FEW_ROWS", 0), (fast, "WINOGRAD", False)]
WINOGRAD = [(fast, "FEW_CHANNELS", 0), (fast, "FEW_ROWS", 0), (winograd, "WORTH", np.inf)]
WAYS = {
    "winograd": WINOGRAD,
    "winograd, an image at a time": [*WINOGRAD, (winograd, "ELEMENTS", 1)],
    "taps": [*ALL_ROWS, (fast, "LARGE", 0)],
    "taps, by small tiles": [*ALL_ROWS, (fast, "LARGE", 0), (shifted_gemm, "TILE", (1, 2))],
    "rows": [*ALL_ROWS, (fast, "LARGE", 1 << 60), (row_im2col, "LARGE", 0)],
    "columns": [(fast, "FEW_CHANNELS", 1 << 60)],
    "columns, all rows at once": [(fast, "FEW_CHANNELS", 1 << 60), (im2col, "BLOCKS", 1)],
    "columns, some rows at once": [(fast, "FEW_CHANNELS", 1 << 60), (im2col, "BLOCKS", 3)],
    "columns, in pieces": [(fast, "FEW_CHANNELS", 1 << 60), (im2col, "SMALL", 32), (im2col, "SHORTEST", 1)],
    "columns, one pixel at a time": [(fast, "FEW_CHANNELS", 1 << 60), (im2col, "CACHED", 1)],
}


REMEMBERED = (im2col._blocks, im2col._pieces, shifted_gemm.tiles, winograd.wins)  # what a way changes
every_way = pytest.mark.parametrize("way", WAYS)


@contextlib.contextmanager
def taking(way, threads=1):
    """Leave no choice of the way, nor of the number of threads, whatever the machine has."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in WAYS[way]:
            patch.setattr(module, name, value)
        patch.setattr(parallel, "threads", lambda: threads)
        for remembered in REMEMBERED:
            remembered.cache_clear()
        yield
    for remembered in REMEMBERED:
        remembered.cache_clear()


@st.composite
def problems(draw, dtype=np.float64, way=""):
    """Return x, w, g and the geometry of a convolution; sizes on both sides of what any path might cut at."""
    most = (1, 3, 1) if way.startswith("winograd") else (3, 3, 2)  # which knows nothing else
    groups = 1 if way.startswith("winograd") else draw(st.sampled_from([1, 1, 2]))
    stride, padding, dilation = (draw(st.tuples(some, some)) for some in map(st.integers, (1, 0, 1), most))
    geometry = conv_geometry(stride, padding, dilation, groups, winograd=way.startswith("winograd"))
    c, k = draw(st.integers(1, 5)), draw(st.integers(1, 5)) * groups
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    least = [max(1, d * (n - 1) + 1 - 2 * p) for d, n, p in zip(dilation, kernel, padding, strict=True)]
    size = [n + draw(st.integers(0, 7)) for n in least]
    x_shape, w_shape = (draw(st.integers(0, 4)), c * groups, *size), (k, c, *kernel)
    whole = output_shape(x_shape, w_shape, geometry)
    geometry = geometry._replace(crop=tuple(draw(st.integers(0, min(5, n - 1))) for n in whole[2:]))
    y_shape = output_shape(x_shape, w_shape, geometry)
    x, w, g = (draw(images(shape)).astype(dtype) for shape in (x_shape, w_shape, y_shape))
    return x, w, g, geometry


def agree(got, expected, terms, way=""):
    """To the rounding of a sum of so many terms, in whatever order; a digit less by Winograd's way, which costs that."""
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
    digit = 10 if way.startswith("winograd") else 1
    bound = 4 * np.sqrt(terms + 1) * np.finfo(got.dtype).eps * np.abs(expected).max(initial=1) * 4 * digit
    np.testing.assert_allclose(got, expected, rtol=0, atol=bound)


@every_way
@settings(max_examples=60)
@given(data=st.data())
def test_all_three_convolutions_are_the_plain_ones(way, data):
    x, w, g, geometry = data.draw(problems(data.draw(st.sampled_from([np.float32, np.float64])), way))
    problem = Problem(x.shape, w.shape, g.shape, geometry)
    kept = [a.copy() for a in (x, w, g)]
    with taking(way, threads=data.draw(st.sampled_from([1, 2, 5]))):
        agree(fast.conv2d(x, w, problem), conv.plain_conv2d(x, w, geometry), w[0].size, way)
        agree(fast.input_grad(g, w, problem), conv.plain_input_grad(g, w, x.shape, geometry), w[:, 0].size, way)
        agree(fast.weight_grad(x, g, problem), conv.plain_weight_grad(x, g, w.shape, geometry), g[:, 0].size, way)
    for a, b in zip((x, w, g), kept, strict=True):
        np.testing.assert_array_equal(a, b)  # and changed none of them


def test_images_as_wide_as_results_that_a_stride_has_moved():
    geometry = conv_geometry(2, 1, 1, 1)  # columns -1 and 1 of images with columns 0 and 1
    g, w = np.random.default_rng(0).standard_normal((4, 1, 2, 2)), np.full((1, 1, 1, 1), 3.0)
    with taking("rows"):
        got = fast.input_grad(g, w, Problem(g.shape, w.shape, g.shape, geometry))
    agree(got, conv.plain_input_grad(g, w, g.shape, geometry), 1)


@every_way
@settings(max_examples=15)
@given(data=st.data())
def test_first_and_second_derivatives_by_every_way(way, data):
    x, w, _, geometry = data.draw(problems(way=way).filter(lambda drawn: drawn[0].size < 60))
    with taking(way, threads=2):
        check_grads(lambda x, w: conv.conv2d_forward(x, w, geometry=geometry), [x, w], order=2)


@pytest.mark.parametrize(
    ("c", "k", "size", "kernel", "padding", "crop", "expected"),
    [
        (1, 32, 28, 5, 0, 0, "columns"),
        (32, 64, 9, 5, 0, 0, "rows"),  # 5 x 5 results, of 8 x 8 in four tiles
        (32, 64, 9, 5, 0, 1, "winograd"),
        (32, 64, 9, 5, 2, 1, "winograd"),
        (64, 64, 32, 3, 1, 0, "winograd"),
        (512, 512, 4, 3, 1, 0, "taps"),  # whose filters alone would take 38 MB
        (48, 96, 10, 8, 3, 0, "taps"),
        (48, 96, 4, 5, 3, 0, "taps"),  # of which padding is more than half
        (32, 64, 13, 6, 0, 1, "rows"),  # too many taps
    ],
)
def test_the_papers_layers_go_the_way_meant_for_them(c, k, size, kernel, padding, crop, expected):
    geometry = conv_geometry(1, padding, 1, 1, crop, winograd=True)
    shapes = (128, c, size, size), (k, c, kernel, kernel)
    problem = Problem(*shapes, output_shape(*shapes, geometry), geometry)
    ways = {"columns": fast.thin, "winograd": fast.fewer, "taps": fast.large, "rows": lambda problem: True}
    assert next(way for way, taken in ways.items() if taken(problem)) == expected
    exact = problem._replace(geometry=geometry._replace(winograd=False))
    assert not fast.fewer(exact)


def test_winograds_way_leaves_out_what_is_cropped():
    rng, geometry = np.random.default_rng(0), conv_geometry(1, 0, 1, 1, 5, winograd=True)  # a whole tile and more
    x, w = rng.normal(size=(2, 3, 10, 10)), rng.normal(size=(2, 3, 3, 3))
    g = rng.normal(size=output_shape(x.shape, w.shape, geometry))
    problem = Problem(x.shape, w.shape, g.shape, geometry)
    with taking("winograd"):
        agree(fast.conv2d(x, w, problem), conv.plain_conv2d(x, w, geometry), 27, "winograd")
        agree(fast.weight_grad(x, g, problem), conv.plain_weight_grad(x, g, w.shape, geometry), 18, "winograd")


def test_training_multiplies_less_and_inference_keeps_all_digits(monkeypatch):
    asked = []
    monkeypatch.setattr(winograd, "wins", lambda problem: asked.append(problem) or False)
    rng = np.random.default_rng(0)
    model = nn.Sequential(nn.Conv2D(16, 16, 3, rng=rng), nn.MaxPool2D(2), nn.Flatten(), nn.Dense(256, 3, rng=rng))
    x, y = rng.random((32, 16, 10, 10), np.float32), rng.integers(0, 3, 32)
    attacks.fgsm(model, x, y, eps=0.1)
    gradients_of = grad(cross_entropy(model(x, train=True), y), model.parameters())
    assert len(gradients_of) == 4
    assert asked == []
    gradient_update(model, classification_loss, optim.SGD(model.parameters(), 0.1), x, y, rng=rng)
    assert len(asked) == 2  # forward, and the gradient of the filters
    asked.clear()
    gradient_update(model, adversarial_training(0.1), optim.SGD(model.parameters(), 0.1), x, y, rng=rng)
    assert len(asked) == 6  # the attack's forward and gradient, too
    model(x)
    assert len(asked) == 6


def test_winograds_way_can_be_refused():
    code = "from npadv.fast import conv as fast; print(fast.WINOGRAD)"
    assert run_python(code, NPADV_WINOGRAD="off").split() == ["False"]
    assert run_python(code).split() == ["True"]


def test_it_costs_a_digit_and_no_more():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(16, 32, 12, 12)), rng.normal(size=(32, 32, 5, 5))
    exact = conv.plain_conv2d(x, w, conv_geometry(1, 2, 1, 1))
    errors = {}
    for way in ("winograd", "rows"):
        with taking(way), ops.winograd():
            y = ops.conv2d(x.astype(np.float32), w.astype(np.float32), padding=2)
        errors[way] = np.abs(y - exact).max() / np.abs(exact).max()
    assert errors["rows"] < 1e-6 < errors["winograd"] < 1e-5


@every_way
def test_results_lie_in_memory_as_the_next_operation_likes_them(way):
    with taking(way):
        x = Tensor(np.ones((3, 4, 6, 5)), requires_grad=True)
        with ops.winograd():
            y = ops.conv2d(x, np.ones((2, 4, 3, 3)))
        g = grad(y, x, np.ones(y.shape))
    for result in (y.data, g):
        assert np.shares_memory(pixels(result), result)  # a view: nothing is copied


@every_way
@pytest.mark.parametrize("narrow", range(3))
def test_mixed_precisions_compute_in_the_wider_one(way, narrow):
    rng, geometry = np.random.default_rng(0), conv_geometry(1, 1, 1, 1, winograd=True)
    arrays = [rng.normal(size=shape) for shape in ((2, 3, 6, 5), (2, 3, 3, 3), (2, 2, 6, 5))]
    arrays[narrow] = arrays[narrow].astype(np.float32)
    x, w, g = arrays
    wide, problem = [a.astype(np.float64) for a in arrays], Problem(x.shape, w.shape, g.shape, geometry)
    with taking(way):
        if narrow != 2:
            agree(fast.conv2d(x, w, problem), conv.plain_conv2d(*wide[:2], geometry), 27, way)
        if narrow != 0:
            agree(fast.input_grad(g, w, problem), conv.plain_input_grad(wide[2], wide[1], x.shape, geometry), 18, way)
        if narrow != 1:
            agree(fast.weight_grad(x, g, problem), conv.plain_weight_grad(wide[0], wide[2], w.shape, geometry), 60, way)


@pytest.mark.parametrize("setting", ["stride", "dilation", "groups"])
def test_winograds_way_is_for_neighbours_of_all_channels(setting):
    geometry = conv_geometry(**{"stride": 1, "padding": 0, "dilation": 1, "groups": 1, setting: 2})
    shapes = (8, 64, 20, 20), (64, 32 if setting == "groups" else 64, 5, 5)
    with taking("winograd"):
        assert not winograd.wins(Problem(*shapes, output_shape(*shapes, geometry), geometry))


# Matrix products ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direct", [True, False])
@settings(max_examples=50)
@given(data=st.data())
def test_products_are_added_to_what_is_there(direct, data):
    r, q, c, k, taps = (data.draw(st.integers(1, n)) for n in (9, 9, 5, 5, 3))
    dtype, rtol = data.draw(st.sampled_from([(np.float32, 1e-5), (np.float64, 1e-13)]))
    y, x, w = (data.draw(arrays(shape)).astype(dtype, order="C") for shape in ((r, k), (q, c + 2), (taps, c, k)))
    x = x[:, 1:-1]  # rows that lie apart
    counts = data.draw(st.lists(st.integers(0, min(r, q)), max_size=4))
    spans = [tuple(data.draw(st.integers(0, top)) for top in (r - n, q - n)) for n in counts]
    spans = [(*places, n, data.draw(st.integers(0, taps - 1))) for places, n in zip(spans, counts, strict=True)]
    expected_y, expected_w = y.copy(), w.copy()
    for at, start, n, tap in spans:
        expected_w[tap] += x[start : start + n].T @ y[at : at + n]
        expected_y[at : at + n] += x[start : start + n] @ w[tap]
    with pytest.MonkeyPatch.context() as patch:
        if not direct:
            patch.setattr(blas, "_GEMM", {})
        kept = y.copy()
        blas.add_products(y, x, w, spans)
        np.testing.assert_allclose(y, expected_y, rtol=rtol, atol=rtol)
        blas.add_transposed_products(w, x, kept, spans)
        np.testing.assert_allclose(w, expected_w, rtol=rtol, atol=rtol)


def test_the_blas_of_numpys_wheels_is_found():
    name = np.show_config(mode="dicts")["Build Dependencies"]["blas"]["name"]
    if name == "scipy-openblas":
        assert set(blas._GEMM) == {"f", "d"}
        assert blas.threads() == blas._get_threads() >= 1
    else:  # whatever another build has, what is found has been tried
        assert blas._right(blas._GEMM)


def test_a_product_that_computes_something_else_is_not_used():
    def wrong(*arguments):
        pass

    assert not blas._right({"f": wrong})


def run_python(code, **environment):
    """Run some code in a process of its own, which must not fail; return what it printed."""
    unset = {"OPENBLAS_NUM_THREADS": "2", **environment}
    return subprocess.run(
        [sys.executable, "-c", code], env=os.environ | unset, capture_output=True, text=True, check=True, timeout=120
    ).stdout


def test_blas_can_be_left_alone():
    code = "from npadv.fast import blas; print(blas._GEMM, blas.threads())"
    assert run_python(code, NPADV_BLAS="numpy").split() == ["{}", "1"]


def test_shared_matrix_products_are_products():
    rng = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "threads", lambda: 2)
        for m, k, n in [(130, 200, 90), (90, 200, 131), (2, 3000, 400)]:
            for dtype in (np.float32, np.float64):
                a, b = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((n, k)).astype(dtype).T
                assert a.size * n >= linalg.LARGE
                agree(ops.matmul(a, b), np.einsum("ij,jk->ik", a, b), k)
    with pytest.raises(ValueError, match="matmul"):
        ops.matmul(np.ones((300, 300)), np.ones((299, 300)))
    assert ops.matmul(np.ones((300, 300), np.float32), np.ones((300, 300))).dtype == np.float64


# Threads --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def three(monkeypatch):
    monkeypatch.setattr(parallel, "threads", lambda: 3)


def test_every_part_runs_once_and_several_threads_take_part(three):
    seen, together = [], threading.Barrier(3, timeout=10)

    def part(i):
        if i < 3:
            together.wait()  # would break if one thread did all
        seen.append((i, threading.get_ident()))

    parallel.run(part, 20)
    assert sorted(i for i, _ in seen) == list(range(20))
    assert len({thread for _, thread in seen}) == 3


def test_blas_has_one_thread_meanwhile_and_its_own_again_afterwards():
    code = """
from npadv.fast import blas, parallel
seen = [blas._get_threads()]
parallel.run(lambda i: seen.append(blas._get_threads()), 6)
with blas.one_thread():
    with blas.one_thread():
        pass
    seen += [blas._get_threads(), blas.threads()]
print(*seen, blas._get_threads())
"""
    assert run_python(code).split() == ["2", *6 * ["1"], "1", "2", "2"]


def test_within_a_part_everything_is_done_at_once(three):
    inner = []
    parallel.run(lambda i: parallel.run(lambda j: inner.append((i, j, threading.get_ident())), 4), 3)
    assert len(inner) == 12
    for i in range(3):  # by the thread that asked
        assert len({thread for part, _, thread in inner if part == i}) == 1


@pytest.mark.parametrize("failing", [0, 5])
def test_an_exception_comes_out_and_the_workers_stay_usable(three, failing):
    done = []

    def part(i):
        if i == failing:
            raise KeyError(i)
        done.append(i)

    with pytest.raises(KeyError, match=str(failing)):
        parallel.run(part, 1000)
    assert len(done) < 1000  # what had not begun was left
    done.clear()
    parallel.run(done.append, 7)
    assert sorted(done) == list(range(7))
    assert blas._held.inside == 0


def test_ctrl_c_while_waiting_for_the_others_leaves_them_idle():
    code = """
import signal, threading, time
from npadv.fast import parallel
parallel.threads = lambda: 2
done, begun = [], threading.Event()

def part(i):
    if threading.current_thread() is threading.main_thread():
        begun.wait()
        signal.setitimer(signal.ITIMER_REAL, 0.2)  # when this thread is done and the other is not
        return
    begun.set()
    time.sleep(0.6)
    done.append(i)

def interrupt(number, frame):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
try:
    parallel.run(part, 2)
except KeyboardInterrupt:
    again = []
    parallel.run(again.append, 4)
    print(len(done), sorted(again))
"""
    assert run_python(code).strip() == "1 [0, 1, 2, 3]"


def test_halves_meet_in_the_middle_once(three):
    for n in (1, 2, 3, 8, 9):
        x, y = np.zeros((n, 2)), np.arange(2.0 * n).reshape(n, 2)
        parallel.halves(lambda x, y: np.add(x, y, out=x), x, y, least=1)
        np.testing.assert_array_equal(x, y)


def test_scratch_is_each_threads_own_and_grows():
    scratch, other = parallel.Scratch(), []
    mine = scratch.array((2, 3), np.float32)
    thread = threading.Thread(target=lambda: other.append(scratch.array((2, 3), np.float32)))
    thread.start()
    thread.join()
    assert not np.shares_memory(mine, other[0])
    assert np.shares_memory(mine, scratch.array((6,), np.float32))
    assert scratch.array((100, 100), np.float64).shape == (100, 100)


def small_convnet(seed=0):
    rng = np.random.default_rng(seed)
    return nn.Sequential(
        nn.Conv2D(1, 16, 3, padding=1, rng=rng),
        nn.ReLU(),
        nn.MaxPool2D(2),
        nn.Conv2D(16, 16, 3, rng=rng),
        nn.MaxPool2D(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dense(64, 10, rng=rng),
    )


def gradients(model, x, y):
    inputs = Tensor(x, requires_grad=True)
    with ops.winograd():
        loss = cross_entropy(model(inputs), y)
    return grad(loss, [inputs, *model.parameters()])


@pytest.fixture(params=["sums", "winograd"])
def lively(request, monkeypatch):
    """Many small parts for many threads, from the smallest sizes on; both by sums of products and by Winograd's way."""
    monkeypatch.setattr(fast, "WINOGRAD", request.param == "winograd")
    monkeypatch.setattr(winograd, "WORTH", np.inf)
    monkeypatch.setattr(winograd, "ELEMENTS", 1 << 14)
    monkeypatch.setattr(parallel, "threads", lambda: 3)
    monkeypatch.setattr(fast, "FEW_ROWS", 0)
    monkeypatch.setattr(linalg, "MEDIUM", 1)
    monkeypatch.setattr(linalg, "LARGE", 1)
    monkeypatch.setattr(parallel.halves, "__kwdefaults__", {"least": 2})
    winograd.wins.cache_clear()
    yield
    winograd.wins.cache_clear()


def test_from_several_threads_at_once_each_gets_its_own_result(lively):
    model, rng = small_convnet(), np.random.default_rng(1)
    batches = [(rng.random((20, 1, 12, 12), np.float32), rng.integers(0, 10, 20)) for _ in range(4)]
    expected = [gradients(model, x, y) for x, y in batches]
    wrong = []

    def repeat(k):
        for _ in range(15):
            for got, right in zip(gradients(model, *batches[k]), expected[k], strict=True):
                if not np.array_equal(got, right):
                    wrong.append(k)

    threads = [threading.Thread(target=repeat, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_number_of_threads_changes_no_bit(lively, monkeypatch):
    model, rng = small_convnet(), np.random.default_rng(1)
    x, y = rng.random((20, 1, 12, 12), np.float32), rng.integers(0, 10, 20)
    several = gradients(model, x, y)
    monkeypatch.setattr(parallel, "threads", lambda: 1)
    for got, expected in zip(gradients(model, x, y), several, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_after_an_exception_in_the_middle_all_is_as_before(lively, monkeypatch):
    model, rng = small_convnet(), np.random.default_rng(1)
    x, y = rng.random((20, 1, 12, 12), np.float32), rng.integers(0, 10, 20)
    expected = gradients(model, x, y)
    module, name = (winograd, "_multiplied") if fast.WINOGRAD else (shifted_gemm, "add_products")
    calls, function = iter(range(100)), getattr(module, name)

    def failing(*args):
        if next(calls) == 3:
            raise MemoryError("in the middle")
        return function(*args)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, failing)
        with pytest.raises(MemoryError, match="in the middle"):
            gradients(model, x, y)
    for got, right in zip(gradients(model, x, y), expected, strict=True):
        np.testing.assert_array_equal(got, right)


def test_a_forked_child_has_workers_of_its_own_and_all_of_blas():
    code = """
import os
from npadv.fast import blas, parallel
children = []

def part(i):  # in the middle of other work, while BLAS is held to one thread
    if i == 0:
        child = os.fork()
        if child == 0:
            done, threads = [], blas._get_threads()
            parallel.run(done.append, 5)
            os._exit(0 if sorted(done) == [0, 1, 2, 3, 4] and threads == blas.threads() == 2 else 1)
        children.append(child)

parallel.run(part, 2)
print(os.waitpid(children[0], 0)[1])
"""
    assert run_python(code).strip() == "0"


# Memory ---------------------------------------------------------------------------------------------------------------

STEPS = """
import resource, sys
import numpy as np
from npadv import nn, optim
from npadv.train import classification_loss, gradient_update
rng = np.random.default_rng(0)
model = nn.network("syn_convnet", rng=rng)
optimizer = optim.SGD(model.parameters(), 0.01, momentum=0.9)
x, y = rng.random((64, 1, 28, 28), np.float32), rng.integers(0, 10, 64)
usage = lambda: resource.getrusage(resource.RUSAGE_SELF)
counts = []
for i in range(40):
    before = usage().ru_minflt
    gradient_update(model, classification_loss, optimizer, x, y, rng=rng)
    counts.append(usage().ru_minflt - before)
    if i == 9:
        early = usage().ru_maxrss
print(max(counts[10:]), usage().ru_maxrss - early)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the C library of Linux has the settings")
def test_after_the_first_steps_no_new_memory_is_taken():
    faults, growth = map(int, run_python(STEPS).split())
    assert faults < 64  # pages of 4 KiB; a step computes 9,000 of them
    assert growth < 2048  # KiB


@pytest.mark.parametrize("setting", [{"NPADV_MALLOC": "system"}, {"MALLOC_TRIM_THRESHOLD_": "131072"}])
def test_memory_can_be_left_to_the_system(setting):
    assert run_python("from npadv.fast import memory; print(memory.keep_freed())", **setting).strip() == "False"


def test_without_the_settings_nothing_happens(monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: types.SimpleNamespace())
    assert memory.keep_freed() is False
