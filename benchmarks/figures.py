"""Measurements beside the ratios: memory, the time of whole commands, and how a step's time grows with its work."""

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
from benchmarks.timing import Plan, PreparedTask, machine_busy, race, summary, was_disturbed
from npadv.data.files import data_folders, find_file

# Memory ------------------------------------------------------------------------------------------------------------------


SETTLING_STEPS = 200  # steps before the measurement: the heap grows by a MiB in the first thousand, then by nothing


def memory(start: Start, say: Say, *, steps: int = 1000, network: str = "convnet", batch: int = 128) -> dict[str, Any]:
    """Return the memory that each contender's training takes: peak and growth in bytes, and page faults a step.

    Each contender is a fresh process. The growth is that of ``steps`` steps, after the first few hundred. A step that
    allocates no large arrays causes few page faults. On a system without these counters the value is a text that says so.
    """
    found: dict[str, Any] = {}
    for contender in ("npadv", "torch", "torch tuned"):
        say(f"memory of {steps} steps: {contender}")
        with start(contender) as worker:
            worker.ask("prepare", name="step", task="train_step", settings={"network": network, "batch": batch})
            try:
                found[contender] = worker.ask("memory", name="step", settle=SETTLING_STEPS, steps=steps)
            except UnsupportedError as error:
                found[contender] = f"skipped: {error}"
    return found


# Processes ---------------------------------------------------------------------------------------------------------------

MAX_REPEATS = 2  # how often a command that other processes disturbed is run again


def processes(threads: int, say: Say, *, rounds: int = 3, keep_tuning: bool = False) -> dict[str, Any]:
    """Return the wall time in seconds of whole commands, start-up included, or the reason why one could not run.

    The commands are ``npadv train NETWORK --epochs 1``, a plain PyTorch script that does the same, and ``npadv demo``.
    """
    folder = mnist_folder()
    environment = worker_environment(threads, {"NPADV_DATA": str(folder)} if folder else {}, keep_tuning=keep_tuning)
    found: dict[str, Any] = {}
    commands: dict[str, list[str]] = {}
    for network in ("maxout_mlp", "syn_convnet"):
        train = ["-m", "npadv", "train", network, "--data", "mnist", "--epochs", "1", "--quiet", "--out", "out"]
        script = ["-m", "benchmarks.contenders.torch_mnist_epoch", network, str(folder), "out", str(threads)]
        for library, command in (("npadv", train), ("torch", script)):
            if folder is None:
                found[f"{network} {library}"] = "skipped: MNIST's files are in none of npadv's data folders"
            else:
                commands[f"{network} {library}"] = command
    commands["demo npadv"] = ["-m", "npadv", "demo", "--quiet", "--out", "out"]

    times: dict[str, list[float]] = {name: [] for name in commands}
    disturbed = dict.fromkeys(commands, 0)
    for i in range(rounds):
        for name, command in commands.items():
            if name in found:
                continue
            say(f"process {i + 1}/{rounds}: {name}")
            try:
                for _ in range(1 + MAX_REPEATS):
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
        If the command fails. The message is the last line of its standard error.
    """
    with tempfile.TemporaryDirectory() as folder:
        busy, started, own = machine_busy(), time.perf_counter(), _cpu_seconds_of_children()
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            _, stderr = process.communicate()
        except BaseException:  # on Ctrl-C the command must not be left running
            process.kill()
            process.communicate()
            raise
        seconds, own, after = time.perf_counter() - started, _cpu_seconds_of_children() - own, machine_busy()
    if process.returncode:
        lines = stderr.decode(errors="replace").strip().splitlines()
        raise ChildProcessError(lines[-1] if lines else f"exit code {process.returncode}")
    return seconds, busy is not None and after is not None and was_disturbed(after - busy, own, seconds)


def _cpu_seconds_of_children() -> float:
    """Return the CPU seconds that this process's finished children have used."""
    times = os.times()
    return times.children_user + times.children_system


def mnist_folder() -> Path | None:
    """Return the folder with MNIST's gzipped files, searched for in npadv's data folders; None if there is none."""
    name = "train-images-idx3-ubyte.gz"
    path = find_file([name], [folder / sub for folder in data_folders(None, "mnist") for sub in ("", "mnist")])
    return None if path is None else path.parent.resolve()


# Scaling -----------------------------------------------------------------------------------------------------------------

BATCHES = (16, 32, 64, 128, 256, 512, 1024)
WIDTHS = (150, 300, 600, 1200, 2400)
FIXED_BATCH, FIXED_WIDTH = 128, 1200  # the batch while the width grows, and the width while the batch grows
FIRST_PRODUCT_BOUND = {"batch": 128, "width": 600}  # from these sizes on, matrix products take most of a step


def scaling(start: Callable[[int], Start], threads: Sequence[int], plan: Plan, say: Say) -> list[dict[str, Any]]:
    """Return series of step times: one for each library, number of threads, and growing size (batch or hidden width).

    The network is a ReLU MLP with two hidden layers. Work is counted in multiply-adds of its three forward products.
    """
    series = []
    for count in threads:
        for grows, sizes in (("batch", BATCHES), ("width", WIDTHS)):
            times: dict[str, list[float]] = {"npadv": [], "torch": []}
            with start(count)("npadv") as ours, start(count)("torch") as theirs:
                workers = {"npadv": ours, "torch": theirs}
                for size in sizes:
                    say(f"scaling, {count} threads: {grows} {size}")
                    batch, width = (size, FIXED_WIDTH) if grows == "batch" else (FIXED_BATCH, size)
                    settings = {"network": f"784-{width}-{width}-10", "batch": batch}
                    for worker in workers.values():
                        worker.ask("prepare", name="step", task="train_step", settings=settings)
                    rounds = race({name: PreparedTask(worker, "step") for name, worker in workers.items()}, plan)
                    for name, seconds in rounds.seconds.items():
                        times[name].append(statistics.median(seconds))
            work = [
                multiply_adds(*((size, FIXED_WIDTH) if grows == "batch" else (FIXED_BATCH, size))) for size in sizes
            ]
            first = sizes.index(FIRST_PRODUCT_BOUND[grows])
            for library, seconds in times.items():
                series.append(
                    {"side": library, "threads": count, "grows": grows, "sizes": list(sizes), "seconds": seconds}
                    | scaling_law(work, seconds, first)
                )
    return series


def multiply_adds(batch: int, width: int) -> int:
    """Return the multiply-adds of a forward pass through 784-width-width-10."""
    return batch * (784 * width + width * width + width * 10)


def scaling_law(work: Sequence[float], seconds: Sequence[float], first: int) -> dict[str, float]:
    """Return how time grows with work, from the ``first`` size on.

    ``exponent`` is that of time ~ work**exponent, by least squares on logarithms. ``from_linear`` is the largest relative
    distance of these times from a line, fixed + rate * work, that is fitted to the relative errors of all sizes.

    >>> scaling_law([1.0, 2.0, 4.0, 8.0], [3.0, 6.0, 12.0, 24.0], 1) == {"exponent": 1.0, "from_linear": 0.0}
    True
    """
    u, t = np.asarray(work, float) / work[-1], np.asarray(seconds, float)
    exponent = np.polyfit(np.log(u[first:]), np.log(t[first:]), 1)[0]
    line, *_ = np.linalg.lstsq(np.stack([1 / t, u / t], axis=1), np.ones_like(t), rcond=None)
    distance = np.abs((line[0] + line[1] * u) / t - 1)[first:].max()
    return {"exponent": round(float(exponent), 3), "from_linear": round(float(distance), 3)}
