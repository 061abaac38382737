"""The speed of the CUDA kernels on one GPU, in one run: each against the vendor's library or against a copy of memory.

    pip install -e ".[gpu-cuda13]" torch
    python -m benchmarks.gpu                     # a minute; writes benchmarks/speed/gpu.json, anew after each row
    python -m benchmarks.gpu --table             # prints that file as the README's table; without it, "not measured"

Run it in the root of the checkout, where ``npadv`` is found even if it is not installed.

===========================  ==============================================================================
row                          against
===========================  ==============================================================================
convolution and gradients    cuDNN, called by PyTorch, after it has tried its algorithms
matrix product               cuBLAS, called by PyTorch
sign step                    a copy of memory that moves as many bytes
adversarial training step    the same step in PyTorch, eager and with torch.compile (which captures it as well)
===========================  ==============================================================================

A ratio is npadv's time divided by the other's, so below 1 npadv is faster. Everything is float32. TF32 is off for both
(PyTorch's convolutions use it by default), and both must compute the same result before they are timed. A sample is a series
of calls between two CUDA events, long enough to keep the GPU's queue full. The two take turns, a ratio is taken within each
turn, and the median ratio is reported with its quartiles. Calls come from Python: where a kernel takes less time than its
launch, about 10 us, both times are those of the launch.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from npadv import kernels, nn
from npadv.backend import require_cupy
from npadv.capture import CapturedStep
from npadv.defenses import adversarial_training
from npadv.environment import environment
from npadv.files import write_json
from npadv.nn.networks import MNIST_DEVIATION, MNIST_MEAN
from npadv.optim import SGD
from npadv.train import gradient_update

RESULTS = Path(__file__).resolve().parent / "speed" / "gpu.json"
TURNS = 15
MIN_SAMPLE_SECONDS = 0.01


class Convolution(NamedTuple):
    """The shapes of a convolution: square images and filters, and the padding."""

    title: str
    channels: int
    side: int
    filters: int
    window: int
    padding: int
    batch: int = 128


CONVOLUTIONS = (
    Convolution("28x28x1, 5x5 to 32", 1, 28, 32, 5, 2),
    Convolution("9x9x32, 5x5 to 64", 32, 9, 64, 5, 2),
    Convolution("14x14x32, 5x5 to 64", 32, 14, 64, 5, 2),
    Convolution("28x28x1, 8x8 to 96", 1, 28, 96, 8, 0),
    Convolution("32x32x3, 8x8 to 192", 3, 32, 192, 8, 4),
    Convolution("32x32x64, 3x3 to 64", 64, 32, 64, 3, 1),
    Convolution("32x32x128, 3x3 to 128", 128, 32, 128, 3, 1),
)
PRODUCTS = ((128, 1200, 784), (128, 1200, 1200), (4096, 4096, 4096))  # M, N, K
STEP_SHAPES = ((128, 784), (256, 3072), (65536, 784))  # (N, D) of a sign step
GROUPS = {  # the beginning of a row's title, and the baseline of these rows
    "conv2d": "cuDNN",
    "input gradient": "cuDNN",
    "weight gradient": "cuDNN",
    "matmul": "cuBLAS",
    "sign step": "copy",
    "adversarial step": "PyTorch, eager",
    "same step": "torch.compile",
}

Call = Callable[[], Any]


class Row(NamedTuple):
    """Two functions that compute the same result: npadv's, and a baseline with its name."""

    title: str
    ours: Call
    theirs: Call
    against: str
    tolerance: float = 1e-4  # between the results, relative to the largest element


# ---------------------------------------------------------------------------------------------- what is compared


def rows(xp: Any, torch: Any) -> Iterator[Row]:
    """Yield every row; its arrays are made when it is reached."""
    for layer in CONVOLUTIONS:
        yield from convolution(layer, xp, torch)
    for M, N, K in PRODUCTS:
        yield product(M, N, K, xp, torch)
    for n, d in STEP_SHAPES:
        yield sign_step(n, d, xp)
    for compiled in (False, True):
        yield adversarial_step(128, xp, torch, compiled=compiled)


def convolution(layer: Convolution, xp: Any, torch: Any) -> Iterator[Row]:
    """Yield a layer's three rows."""
    _, C, side, K, window, p, N = layer
    out = side + 2 * p - window + 1
    x, w, g = _random(xp, (N, C, side, side)), _random(xp, (K, C, window, window)), _random(xp, (N, K, out, out))
    tx, tw, tg = map(torch.from_dlpack, (x, w, g))  # the same memory
    pads = (p, p)

    def backward(*wanted: bool) -> Any:
        gradients = torch.ops.aten.convolution_backward(
            tg, tx, tw, None, [1, 1], list(pads), [1, 1], False, [0, 0], 1, [*wanted, False]
        )
        return gradients[wanted.index(True)]

    calls: dict[str, tuple[Call, Call]] = {
        "conv2d": (
            lambda: kernels.conv2d(x, w, padding=pads),
            lambda: torch.nn.functional.conv2d(tx, tw, padding=pads),
        ),
        "input gradient": (
            lambda: kernels.conv2d_input_grad(g, w, x.shape, padding=pads),
            lambda: backward(True, False),
        ),
        "weight gradient": (
            lambda: kernels.conv2d_weight_grad(x, g, w.shape, padding=pads),
            lambda: backward(False, True),
        ),
    }
    for group, (ours, theirs) in calls.items():
        yield Row(f"{group} {layer.title}", ours, theirs, GROUPS[group])


def product(M: int, N: int, K: int, xp: Any, torch: Any) -> Row:
    """Return the row of a matrix product."""
    a, b = _random(xp, (M, K)), _random(xp, (K, N))
    ta, tb = torch.from_dlpack(a), torch.from_dlpack(b)
    return Row(f"matmul {M}x{K} by {K}x{N}", lambda: kernels.matmul(a, b), lambda: torch.mm(ta, tb), GROUPS["matmul"])


def sign_step(n: int, d: int, xp: Any) -> Row:
    """Return the row of a sign step. It reads two arrays and writes one: as much traffic as copying one and a half arrays."""
    x, g = _random(xp, (n, d)), _random(xp, (n, d))
    source, target = (xp.zeros(n * d * 3 // 2, dtype=x.dtype) for _ in "st")

    def copy() -> None:
        target[...] = source

    return Row(f"sign step {n}x{d}", lambda: kernels.sign_step(x, g, 1e-3, bounds=(-9, 9)), copy, "copy")


def adversarial_step(n: int, xp: Any, torch: Any, *, compiled: bool, steps: int = 3) -> Row:
    """Return the row of adversarial training of [SYN]'s convnet. On a GPU, npadv's step is a captured one.

    Both have trained for a few steps when their losses are compared, so equal losses show that the updates are equal.
    """
    model = nn.network("syn_convnet", rng=np.random.default_rng(0))
    rng = np.random.default_rng(1)
    settings: dict[str, Any] = {"momentum": 0.9, "weight_decay": 1e-3}
    host = rng.random((n, 1, 28, 28), np.float32), rng.integers(0, 10, n)
    tx, ty = (torch.from_numpy(a).to("cpu" if xp is np else "cuda") for a in host)
    weights = [torch.from_numpy(p.data.copy()).to(tx.device).requires_grad_() for p in model.parameters()]
    network = _torch_convnet(torch)
    if compiled:
        network = torch.compile(network, mode="reduce-overhead")
    descent = torch.optim.SGD(weights, 0.01, **settings)
    cross_entropy = torch.nn.functional.cross_entropy

    def theirs() -> Any:
        with torch.enable_grad():
            inputs = tx.detach().requires_grad_()
            constant = [w.detach() for w in weights]  # the attack needs no gradients of them
            (g,) = torch.autograd.grad(cross_entropy(network(inputs, *constant), ty, reduction="sum"), inputs)
            worst = (tx + 0.1 * g.sign()).clamp(0, 1)
            loss = sum(0.5 * cross_entropy(network(images, *weights), ty) for images in (tx, worst))
            descent.zero_grad()
            loss.backward()
        descent.step()
        return loss.detach()

    model.to("cpu" if xp is np else "cuda")
    optimizer, loss = SGD(model.parameters(), 0.01, **settings), adversarial_training(0.1)
    x, y = map(xp.asarray, host)

    def step(x: Any, y: Any) -> Any:
        return gradient_update(model, loss, optimizer, x, y, rng=np.random.default_rng(0))  # rng is not used

    captured = step if xp is np else CapturedStep(step, x)
    for _ in range(steps):
        captured(x, y)
        theirs()
    group = "same step" if compiled else "adversarial step"
    # The sign of a gradient close to zero is rounding's, and moves its pixel by 2 eps: looser than the kernels' tolerance.
    return Row(f"{group} syn_convnet {n}", lambda: captured(x, y), theirs, GROUPS[group], tolerance=1e-3)


def _torch_convnet(torch: Any) -> Callable[..., Any]:
    """Return the function of ``nn.networks.syn_convnet`` in PyTorch."""
    f = torch.nn.functional

    def network(x: Any, *weights: Any) -> Any:
        c1, b1, c2, b2, w3, b3, w4, b4 = weights
        x = f.pad((x - MNIST_MEAN) / MNIST_DEVIATION, (2, 2, 2, 2))
        x = f.max_pool2d(f.relu(f.conv2d(x, c1, b1.flatten())), 3)
        x = f.max_pool2d(f.relu(f.conv2d(x, c2, b2.flatten())), 2)
        return f.relu(x.flatten(1) @ w3 + b3) @ w4 + b4

    return network


def _random(xp: Any, shape: tuple[int, ...]) -> Any:
    return xp.random.RandomState(0).uniform(-1, 1, shape).astype(xp.float32)


def agreement(row: Row, xp: Any) -> float:
    """Return the largest difference of the two results, relative to the largest element; raise if it exceeds rounding."""
    if row.against == "copy":
        return 0.0
    a, b = xp.asarray(row.ours()), xp.from_dlpack(row.theirs())
    difference = float(abs(a - b).max() / abs(b).max())
    if not difference < row.tolerance:
        raise RuntimeError(
            f"{row.title}: npadv and {row.against} must agree to rounding, but differ by {difference:.1e}"
        )
    return difference


# ------------------------------------------------------------------------------------------------------- timing


def measure(
    row: Row, clock: Callable[[Call, int], float], turns: int = TURNS, min_seconds: float = MIN_SAMPLE_SECONDS
) -> dict[str, Any]:
    """Time a row's two functions in turn; ``clock(call, times)`` returns the seconds of that many calls."""
    calls = (row.ours, row.theirs)
    times = [_calls_per_sample(clock, call, min_seconds) for call in calls]
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(turns):
        for i in (0, 1) if turn % 2 else (1, 0):
            seconds[i].append(clock(calls[i], times[i]) / times[i])
    low, median, high = statistics.quantiles([a / b for a, b in zip(*seconds, strict=True)], n=4)
    ours, theirs = map(statistics.median, seconds)
    ratio = {"low": low, "median": median, "high": high}
    return {"row": row.title, "against": row.against, "npadv_seconds": ours, "seconds": theirs, "ratio": ratio}


def _calls_per_sample(clock: Callable[[Call, int], float], call: Call, min_seconds: float) -> int:
    """Return the number of calls that fill a sample. These calls also compile, tune and warm up everything."""
    times = 1
    clock(call, 3)
    while clock(call, times) < min_seconds:
        times *= 2
    return times


def gpu_clock(cupy: Any) -> Callable[[Call, int], float]:
    """Return a clock that reads CUDA events."""
    begin, end = cupy.cuda.Event(), cupy.cuda.Event()

    def clock(call: Call, times: int) -> float:
        begin.record()
        for _ in range(times):
            call()
        end.record()
        end.synchronize()
        return float(cupy.cuda.get_elapsed_time(begin, end)) / 1000

    return clock


# -------------------------------------------------------------------------------------------------- the results


def use_float32(torch: Any) -> None:
    """Switch TF32 off, which PyTorch's convolutions use by default."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def run(save: Callable[[dict[str, Any]], Any]) -> None:
    """Measure every row, and save the results so far after each; raise RuntimeError if CuPy, PyTorch or a GPU is missing."""
    cupy = require_cupy()
    try:
        import torch
    except ImportError:
        raise RuntimeError("comparing with cuDNN needs PyTorch, which is not installed: pip install torch") from None
    if not torch.cuda.is_available():
        raise RuntimeError("comparing with cuDNN needs a PyTorch built for CUDA, and the one installed sees no GPU")
    use_float32(torch)
    torch.backends.cudnn.benchmark = True  # cuDNN tries its algorithms and keeps the fastest
    facts = environment("cuda")
    cudnn: Any = torch.backends.cudnn
    facts["versions"].update(torch=torch.__version__, cudnn=cudnn.version())
    clock = gpu_clock(cupy)
    found: list[dict[str, Any]] = []
    results: dict[str, Any] = {"environment": facts, "tf32": False, "rows": found}
    n, d = STEP_SHAPES[-1]
    with torch.no_grad():
        for row in rows(cupy, torch):
            difference = agreement(row, cupy)
            found.append({**measure(row, clock), "apart": difference})
            print(f"{row.title:45} {found[-1]['ratio']['median']:6.2f} of {row.against}", flush=True)
            if row.title == f"sign step {n}x{d}":
                results["copy_bytes_per_second"] = 2 * 4 * (n * d * 3 // 2) / found[-1]["seconds"]
            save(results)


def table(path: Path = RESULTS) -> str:
    """Return a file of results as the README's table: the geometric mean and the range of each group of rows."""
    results = json.loads(path.read_text("utf-8")) if path.is_file() else {"rows": []}
    card = results["environment"]["device"]["card"] if results["rows"] else "a GPU"
    lines = [f"| kernel, float32 on {card} | against | time as a ratio: mean (range) |", "| --- | --- | --- |"]
    for group, against in GROUPS.items():
        ratios = [row["ratio"]["median"] for row in results["rows"] if row["row"].startswith(f"{group} ")]
        found = "not measured"
        if ratios:
            found = f"{statistics.geometric_mean(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        lines.append(f"| {group} | {against} | {found} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return 1 if nothing could be measured."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=RESULTS, help="write the results here (default: %(default)s)")
    parser.add_argument("--table", action="store_true", help="print the results in that file and measure nothing")
    options = parser.parse_args(arguments)
    if options.table:
        print(table(options.output))
        return 0
    try:
        run(lambda results: write_json(options.output, results))
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
