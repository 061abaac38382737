"""The command line ``python -m benchmarks gpu``: its options, the report at the end, the README's table."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu import supervisor
from benchmarks.gpu.supervisor import PARTS
from benchmarks.gpu.tasks import ROOT
from npadv.backend import require_cupy

RESULTS = ROOT / "benchmarks" / "speed" / "gpu.json"
BUDGET = 480.0

GROUPS = {  # the beginning of a row's name, and the baseline of these rows
    "conv2d": "cuDNN",
    "input gradient": "cuDNN",
    "weight gradient": "cuDNN",
    "matmul": "cuBLAS",
    "sign step": "copy",
    "adversarial step": "PyTorch, eager",
    "same step": "torch.compile",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to a parser."""
    keys = ",".join(part.key for part in PARTS)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write the results here, as gpu.json")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--all", action="store_true", help="run all parts (the default)")
    chosen.add_argument("--parts", default=keys, metavar="KEYS", help=f"run these parts (default: {keys})")
    parser.add_argument(
        "--budget", type=float, default=BUDGET, metavar="SECONDS", help="stop after so long (default: %(default)s)"
    )
    parser.add_argument(
        "--rehearse", action="store_true", help="run without a GPU, on the tests' stand-in for CuPy, with tiny sizes"
    )
    parser.add_argument(
        "--table",
        action="store_true",
        help="print stored results as the README's table and run nothing (default: speed/gpu.json)",
    )


def run(options: argparse.Namespace) -> int:
    """Run the command; return 0, or 1 if something failed, or 130 if it was stopped."""
    if options.table:
        print(table(options.out / "gpu.json" if options.out else RESULTS))
        return 0
    keys = options.parts.split(",")
    unknown = sorted(set(keys) - {part.key for part in PARTS})
    if unknown:
        raise ValueError(f"--parts: expected some of {','.join(part.key for part in PARTS)}, got {','.join(unknown)}")
    if not options.budget > 0:
        raise ValueError(f"--budget: expected seconds above 0, got {options.budget:g}")
    if options.out is None:
        raise ValueError("--out: expected a folder for the results")
    if not options.rehearse:
        try:
            require_cupy()
        except RuntimeError as error:
            print(error, file=sys.stderr)
            return 1
    parts = [part for part in PARTS if part.key in keys]
    results = supervisor.run(
        parts, options.out, options.budget, rehearse=options.rehearse, say=lambda text: print(text, flush=True)
    )
    print("\n".join(report(results)))
    if not options.rehearse:
        print(table(options.out / "gpu.json"))
    if results["stopped"]:
        return 130
    return int(any(row["status"] in ("failed", "stopped") for row in results["rows"]))


def report(results: dict[str, Any]) -> list[str]:
    """Return the end of the report: what was left out, what is not here, and what failed."""
    lines = [f"{len(results['rows'])} results in {results['seconds']:.0f} s of {results['budget']:g} s"]
    for facts in results["parts"]:
        if facts["status"] == "left out":
            lines.append(f"left out: part {facts['part']}, {facts['title']}")
        elif facts["left_out"]:
            lines.append(f"left out of part {facts['part']}: {', '.join(facts['left_out'])}")
    for status in ("not here", "stopped", "failed"):
        rows = [row for row in results["rows"] if row["status"] == status]
        for row in rows:
            where = f" ({row['traceback']})" if "traceback" in row else ""
            lines.append(f"{status}: {row['part']}, {row['name']}: {row['message'].splitlines()[0]}{where}")
    return lines


def table(path: Path = RESULTS) -> str:
    """Return stored results as the README's table: the geometric mean and the range of each group of timings."""
    results = json.loads(path.read_text("utf-8")) if path.is_file() else {"rows": []}
    cards = [row["card"] for row in results["rows"] if "card" in row]
    lines = [
        f"| kernel, float32 on {cards[0] if cards else 'a GPU'} | against | time as a ratio: mean (range) |",
        "| --- | --- | --- |",
    ]
    for group, against in GROUPS.items():
        rows = [row for row in results["rows"] if row["name"].startswith(f"{group} ") and row["status"] == "ok"]
        ratios = [row["ratio"]["median"] for row in rows if "ratio" in row]
        found = "not measured"
        if ratios:
            found = f"{statistics.geometric_mean(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        lines.append(f"| {group} | {against} | {found} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``python -m benchmarks.gpu``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="Check and measure npadv on a GPU.")
    add_options(parser)
    try:
        return run(parser.parse_args(argv))
    except (OSError, ValueError) as error:
        print(f"benchmarks.gpu: {error}", file=sys.stderr)
        return 2
