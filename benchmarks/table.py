"""The results as text: a line for each ratio, with its bar and whether it misses it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from benchmarks.timing import geometric_mean

HEADER = (
    f"{'':4} {'workload':46} {'time':>10}  {'against':12} {'time':>10}  {'ratio':>6}  {'quartiles':>11}  at most / aim"
)


def duration(seconds: float) -> str:
    """Return a time with three digits and its unit.

    >>> duration(0.01234), duration(2.5e-5), duration(75.0)
    ('12.3 ms', '25.0 us', '75.0 s')
    """
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size or unit == "us":
            return f"{seconds / size:.{0 if seconds / size >= 100 else 1}f} {unit}"
    raise AssertionError("the smallest unit takes every time")


def lines(row: dict[str, Any]) -> list[str]:
    """Return a row's lines, one for each baseline."""
    if "skipped" in row:
        return [f"{row['key']:4} {row['title']:46} skipped: {row['skipped']}"]
    head = f"{row['key']:4} {row['title']:46} {duration(row['seconds'][row['ours']]['median']):>10}"
    text = []
    for name, ratio in row["ratios"].items():
        spread = f"{ratio['low']:.2f}-{ratio['high']:.2f}"
        line = f"{head}  {name:12} {duration(row['seconds'][name]['median']):>10}  {ratio['median']:6.2f}  {spread:>11}"
        if "at_most" in ratio:
            verdict = "" if ratio["median"] <= ratio["at_most"] else "  missed"
            line += f"  {ratio['at_most']:.2f} / {ratio['aim']:.2f}{verdict}"
        text.append(line)
        head = " " * len(head)
    if row["disturbed_samples"]:
        samples = sum(map(len, row["rounds"].values()))
        text.append(f"{'':4} other processes disturbed {row['disturbed_samples']} of these {samples} samples")
    return text


def table(rows: Iterable[dict[str, Any]]) -> str:
    """Return all rows under a header, and the convolutions' geometric mean below."""
    rows = list(rows)
    text = [HEADER, *(line for row in rows for line in lines(row))]
    for baseline, mean in convolution_means(rows).items():
        text.append(f"{'g':4} {'geometric mean of the convolutions':46} {'':10}  {baseline:12} {'':10}  {mean:6.2f}")
    return "\n".join(line.rstrip() for line in text)


def convolution_means(rows: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Return the geometric mean of the convolutions' ratios, by baseline."""
    ratios: dict[str, list[float]] = {}
    for row in rows:
        if row["key"].startswith("g"):
            for name, ratio in row.get("ratios", {}).items():
                ratios.setdefault(name, []).append(ratio["median"])
    return {name: geometric_mean(values) for name, values in ratios.items()}


MIB = 2**20
TOLERATED_GROWTH = 1 * MIB  # in 1000 steps, for allocations that are not the step's


def extras(results: dict[str, Any]) -> list[str]:
    """Return lines for memory, whole commands and scaling, as far as the results contain them."""
    text = []
    for contender, found in results.get("memory", {}).items():
        if isinstance(found, str):
            text.append(f"memory of a convnet's training, {contender}: {found}")
            continue
        text.append(
            f"memory of a convnet's training, {contender}: peak {found['peak'] / MIB:.0f} MiB, "
            f"{found['growth'] / MIB:+.1f} MiB over {found['steps']} steps, "
            f"{found['faults_per_step']:.1f} page faults a step{_memory_verdict(results, contender)}"
        )
    for name, seconds in results.get("processes", {}).items():
        text.append(f"whole process, {name}: {seconds if isinstance(seconds, str) else duration(seconds['median'])}")
    for series in results.get("scaling", []):
        times = ", ".join(f"{n}: {duration(t)}" for n, t in zip(series["sizes"], series["seconds"], strict=True))
        text.append(
            f"scaling of {series['side']}, {series['threads']} threads, {series['grows']} {times}; time ~ work^"
            f"{series['exponent']:.2f} where products dominate, within {series['from_linear']:.0%} of a line"
        )
    return text


def _memory_verdict(results: dict[str, Any], contender: str) -> str:
    """Return the bars that npadv's memory misses: it must not grow, and its peak must not exceed that of plain PyTorch."""
    if contender != "npadv":
        return ""
    ours, theirs = results["memory"]["npadv"], results["memory"]["torch"]
    missed = ["it grows"] * (ours["growth"] > TOLERATED_GROWTH) + ["peak above PyTorch's"] * (
        ours["peak"] > theirs["peak"]
    )
    return "".join(f"  missed: {bar}" for bar in missed)
