"""What is measured beside the ratios, without a bar on the clock: memory, whole processes, and how time grows with work."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.compare import Say, Start
from benchmarks.process import UnsupportedError, worker_environment
from benchmarks.timing import Contestant, Plan, machine_busy, race, summary, was_disturbed
from npadv.data.files import data_folders, find_file

# Memory ------------------------------------------------------------------------------------------------------------------


SETTLE = 200  # steps in which a heap finds its shape: it takes a MiB in the first thousand, then nothing in the next


def memory(start: Start, say: Say, *, steps: int = 1000, network: str = "convnet", batch: int = 128) -> dict[str, Any]:
    """Return, for each side, what training does to its memory: peak and growth in bytes, page faults a step.

    A fresh process each; the growth is that of ``steps`` steps after the first few hundred. A step that allocates nothing
    large faults on few pages. Where a system does not tell, a text says so.
    """
    found: dict[str, Any] = {}
    for side in ("npadv", "torch", "torch tuned"):
        say(f"memory of {steps} steps: {side}")
        with start(side) as worker:
            worker.ask("prepare", name="step", task="train_step", settings={"network": network, "batch": batch})
            try:
                found[side] = worker.ask("memory", name="step", settle=SETTLE, steps=steps)
            except UnsupportedError as error:
                found[side] = f"skipped: {error}"
    return found


# Processes ---------------------------------------------------------------------------------------------------------------

REPEATS = 2  # of a command that other processes disturbed


def processes(threads: int, say: Say, *, rounds: int = 3, keep_tuning: bool = False) -> dict[str, Any]:
    """Return the wall time in seconds of whole commands, start-up included, or why one could not run.

    ``npadv train NETWORK --epochs 1`` and a plain PyTorch script that does the same; ``npadv demo``.
    """
    folder = mnist_folder()
    environment = worker_environment(threads, {"NPADV_DATA": str(folder)} if folder else {}, keep_tuning=keep_tuning)
    found: dict[str, Any] = {}
    commands: dict[str, list[str]] = {}
    for network in ("maxout_mlp", "syn_convnet"):
        train = ["-m", "npadv", "train", network, "--data", "mnist", "--epochs", "1", "--quiet", "--out", "out"]
        script = ["-m", "benchmarks.sides.torch_epoch", network, str(folder), "out", str(threads)]
        for side, command in (("npadv", train), ("torch", script)):
            if folder is None:
                found[f"{network} {side}"] = "skipped: MNIST's files are in none of the folders that npadv looks in"
            else:
                commands[f"{network} {side}"] = command
    commands["demo npadv"] = ["-m", "npadv", "demo", "--quiet", "--out", "out"]

    times: dict[str, list[float]] = {name: [] for name in commands}
    disturbed = dict.fromkeys(commands, 0)
    for i in range(rounds):
        for name, command in commands.items():
            if name in found:
                continue
            say(f"process {i + 1}/{rounds}: {name}")
            try:
                for _ in range(1 + REPEATS):
                    seconds, noisy = wall_time([sys.executable, *command], environment)
                    if not noisy:
                        break
            except ChildProcessError as error:
                found[name] = f"failed: {error}"
                continue
            times[name].append(seconds)
            disturbed[name] += noisy
    return found | {
        name: summary(times[name]) | {"disturbed": disturbed[name]} for name in commands if name not in found
    }


def wall_time(command: Sequence[str], environment: dict[str, str]) -> tuple[float, bool]:
    """Return the seconds that a command takes in an empty folder, and whether other processes disturbed it.

    Raises
    ------
    ChildProcessError
        It failed; the message is the last line of its complaint.
    """
    with tempfile.TemporaryDirectory() as folder:
        busy, started, own = machine_busy(), time.perf_counter(), _children()
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            _, complaint = process.communicate()
        except BaseException:  # Ctrl-C: it must not outlive us
            process.kill()
            process.communicate()
            raise
        seconds, own, after = time.perf_counter() - started, _children() - own, machine_busy()
    if process.returncode:
        words = complaint.decode(errors="replace").strip().splitlines()
        raise ChildProcessError(words[-1] if words else f"exit code {process.returncode}")
    return seconds, busy is not None and after is not None and was_disturbed(after - busy, own, seconds)


def _children() -> float:
    """Return the processor's seconds that went to finished children of this process."""
    times = os.times()
    return times.children_user + times.children_system


def mnist_folder() -> Path | None:
    """Return the folder with MNIST's gzipped files, where npadv would look for it."""
    name = "train-images-idx3-ubyte.gz"
    path = find_file([name], [folder / sub for folder in data_folders(None, "mnist") for sub in ("", "mnist")])
    return None if path is None else path.parent.resolve()


# Scaling -----------------------------------------------------------------------------------------------------------------

BATCHES = (16, 32, 64, 128, 256, 512, 1024)
WIDTHS = (150, 300, 600, 1200, 2400)
BATCH, WIDTH = 128, 1200  # the other one's, where one grows
DOMINATED = {"batch": 128, "width": 600}  # from here on matrix products take most of a step


def scaling(start: Callable[[int], Start], threads: Sequence[int], plan: Plan, say: Say) -> list[dict[str, Any]]:
    """Return a series of step times for each side, number of threads, and thing that grows: the batch, the hidden width.

    The network is a ReLU MLP with two hidden layers; ``work`` is in multiply-adds of its three forward products.
    """
    series = []
    for count in threads:
        for grows, sizes in (("batch", BATCHES), ("width", WIDTHS)):
            times: dict[str, list[float]] = {"npadv": [], "torch": []}
            with start(count)("npadv") as ours, start(count)("torch") as theirs:
                workers = {"npadv": ours, "torch": theirs}
                for size in sizes:
                    say(f"scaling, {count} threads: {grows} {size}")
                    batch, width = (size, WIDTH) if grows == "batch" else (BATCH, size)
                    settings = {"network": f"784-{width}-{width}-10", "batch": batch}
                    for worker in workers.values():
                        worker.ask("prepare", name="step", task="train_step", settings=settings)
                    rounds = race({name: Contestant(worker, "step") for name, worker in workers.items()}, plan)
                    for name, seconds in rounds.seconds.items():
                        times[name].append(statistics.median(seconds))
            work = [multiply_adds(*((size, WIDTH) if grows == "batch" else (BATCH, size))) for size in sizes]
            first = sizes.index(DOMINATED[grows])
            for side, seconds in times.items():
                series.append(
                    {"side": side, "threads": count, "grows": grows, "sizes": list(sizes), "seconds": seconds}
                    | law(work, seconds, first)
                )
    return series


def multiply_adds(batch: int, width: int) -> int:
    """Return those of a forward pass through 784-width-width-10."""
    return batch * (784 * width + width * width + width * 10)


def law(work: Sequence[float], seconds: Sequence[float], first: int) -> dict[str, float]:
    """Return how time follows work from the ``first`` size on.

    ``exponent`` of time ~ work**exponent, by least squares on logarithms; ``from_linear``, the largest relative
    distance of these times from the line fixed + rate * work that is fitted to all sizes, relative errors weighed alike.

    >>> law([1.0, 2.0, 4.0, 8.0], [3.0, 6.0, 12.0, 24.0], 1) == {"exponent": 1.0, "from_linear": 0.0}
    True
    """
    u, t = np.asarray(work, float) / work[-1], np.asarray(seconds, float)
    exponent = np.polyfit(np.log(u[first:]), np.log(t[first:]), 1)[0]
    line, *_ = np.linalg.lstsq(np.stack([1 / t, u / t], axis=1), np.ones_like(t), rcond=None)
    distance = np.abs((line[0] + line[1] * u) / t - 1)[first:].max()
    return {"exponent": round(float(exponent), 3), "from_linear": round(float(distance), 3)}
