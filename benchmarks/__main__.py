"""The command line: ``python -m benchmarks cpu``, ``attacks`` and ``gpu`` measure, ``draw`` redraws the picture."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.attacks import PARTS
from benchmarks.compare import CHECK_MISSES, CHECK_RUNS, Row, Start, compare, repeated_misses, starter, versions
from benchmarks.figures import memory, processes, scaling
from benchmarks.gpu import command as gpu
from benchmarks.process import MissingLibraryError, WorkerError, tuning
from benchmarks.table import extras, lines, table
from benchmarks.timing import Plan
from benchmarks.workloads import Workload, select
from npadv.environment import environment
from npadv.files import atomic_write, write_json

RESULTS = Path(__file__).parent / "speed" / "cpu.json"
EXTRAS = ("memory", "processes", "scaling")  # measurements that --only accepts besides the workloads' keys


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure npadv's speed against PyTorch's."
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    cpu = commands.add_parser("cpu", help="measure on this machine's processor")
    cpu.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="KEY",
        help=f"measure only these workloads, by key or by the beginning of their keys (a c1 g), or {', '.join(EXTRAS)}; "
        "nothing is written without --output",
    )
    cpu.add_argument("--rounds", type=int, default=Plan.rounds, help="turns of each contender (default: %(default)s)")
    cpu.add_argument(
        "--budget",
        type=float,
        default=Plan.budget,
        metavar="SECONDS",
        help="length of each turn (default: %(default)s)",
    )
    cpu.add_argument("--threads", type=int, default=2, help="threads of each contender (default: %(default)s)")
    cpu.add_argument("--peers", action="store_true", help="also measure JAX, autograd and textbook NumPy")
    cpu.add_argument("--no-scaling", action="store_true", help="do not measure how time grows with batch and width")
    cpu.add_argument("--keep-tuning", action="store_true", help="pass OPENBLAS_*, MKL_*, ... on to the contenders")
    cpu.add_argument("--output", type=Path, metavar="FILE", help=f"write results here (default: speed/{RESULTS.name})")
    cpu.add_argument(
        "--check",
        action="store_true",
        help=f"run the workloads that have a bar {CHECK_RUNS} times; fail if {CHECK_MISSES} runs miss a bar by over 15%%",
    )
    cpu.set_defaults(run=_cpu)
    attacks = commands.add_parser("attacks", help="measure attacks against other libraries' and against SciPy")
    attacks.add_argument(
        "--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="measure only these attacks"
    )
    attacks.add_argument("--batch", type=int, default=256, help="images attacked together (default: %(default)s)")
    attacks.add_argument(
        "--images", type=int, default=8, help="images for attacks that take one at a time (default: %(default)s)"
    )
    attacks.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="write results here as JSON; other attacks' results in the file are kept (default: nothing is written)",
    )
    attacks.set_defaults(run=_attacks)
    on_gpu = commands.add_parser("gpu", help="check and measure everything on a GPU, in minutes")
    gpu.add_options(on_gpu)
    on_gpu.set_defaults(run=gpu.run)
    draw = commands.add_parser("draw", help="redraw the picture from stored results")
    draw.add_argument("--input", type=Path, default=RESULTS, metavar="FILE", help="results (default: speed/cpu.json)")
    draw.add_argument("--output", type=Path, metavar="FILE", help="picture (default: the results' name with .png)")
    draw.set_defaults(run=_draw)
    return parser


def _cpu(arguments: argparse.Namespace) -> int:
    if arguments.threads < 1:
        raise ValueError(f"--threads: expected at least 1, got {arguments.threads}")
    plan = Plan(rounds=arguments.rounds, budget=arguments.budget)
    keys = [key for key in arguments.only if key not in EXTRAS]
    workloads = select(keys, peers=arguments.peers) if keys or not arguments.only else []
    start = starter(arguments.threads, keep_tuning=arguments.keep_tuning)
    if arguments.check:
        return _check([w for w in workloads if w.bars], plan, start)
    extra_measurements = _extra_measurements(arguments, start)
    chosen = arguments.only or [name for name in EXTRAS if not (name == "scaling" and arguments.no_scaling)]
    results = _settings_and_versions(arguments, plan, workloads, start) | {"rows": []}
    output = arguments.output or (None if arguments.only else RESULTS)
    complete = False
    try:
        for row in compare(workloads, plan, start, _show_progress):
            results["rows"].append(row)
            _print("\n".join(lines(row)))
        for name, measure in extra_measurements.items():
            if name in chosen:
                results[name] = measure()
        complete = True
    finally:
        _print("")
        if output is not None and (complete or results["rows"]):
            # An interrupted run must not replace the results of a complete one.
            path = output if complete else output.with_suffix(".partial.json")
            write_json(path, rounded(results))
            print(f"{'results' if complete else 'the finished rows'} are in {path}\n")
    print(table(results["rows"]) if results["rows"] else "", *extras(results), sep="\n")
    return 0


def _extra_measurements(arguments: argparse.Namespace, start: Start) -> dict[str, Callable[[], Any]]:
    """Return the functions that measure memory, whole commands and scaling, by their key in the results."""

    def measure_scaling() -> Any:
        plan = Plan(rounds=min(3, arguments.rounds), budget=arguments.budget)
        counts = sorted({1, arguments.threads})
        return scaling(
            lambda threads: starter(threads, keep_tuning=arguments.keep_tuning), counts, plan, _show_progress
        )

    return {
        "memory": lambda: memory(start, _show_progress),
        "processes": lambda: processes(arguments.threads, _show_progress, keep_tuning=arguments.keep_tuning),
        "scaling": measure_scaling,
    }


def _settings_and_versions(
    arguments: argparse.Namespace, plan: Plan, workloads: list[Workload], start: Start
) -> dict[str, Any]:
    """Return the settings, versions and machine of a run; raise MissingLibraryError before anything is measured."""
    contenders = {entry.contender for w in workloads for entry in w.entries.values()} | {"npadv", "torch"}
    found = versions(sorted(contenders), start)
    facts = environment()
    facts["versions"] |= found
    removed = "kept" if arguments.keep_tuning else "removed"
    settings = {"threads": arguments.threads, "rounds": plan.rounds, "budget": plan.budget, "dtype": "float32"}
    return {"settings": settings | {f"tuning_{removed}": tuning(os.environ)}, **facts}


def _check(workloads: list[Workload], plan: Plan, start: Start) -> int:
    """Run the workloads three times; print the ratios that missed their bar in two runs, and return the exit code."""
    runs: list[list[Row]] = []
    for i in range(CHECK_RUNS):
        _print(f"run {i + 1} of {CHECK_RUNS}")
        runs.append([])
        for row in compare(workloads, plan, start, _show_progress):
            runs[-1].append(row)
            _print("\n".join(lines(row)))
    failed = repeated_misses(runs)
    for key, baseline in failed:
        measured = [row["ratios"][baseline] for rows in runs for row in rows if row["key"] == key]
        ratios = ", ".join(f"{ratio['median']:.2f}" for ratio in measured)
        print(f"check: {key} against {baseline}: at most {measured[0]['at_most']:.2f}, got {ratios}")
    if not failed:
        print(f"check: no ratio exceeded its bar by more than 15% in {CHECK_MISSES} of {CHECK_RUNS} runs")
    return 1 if failed else 0


def _attacks(arguments: argparse.Namespace) -> int:
    for name in ("batch", "images"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"--{name}: expected at least 1, got {getattr(arguments, name)}")
    settings = {"batch": arguments.batch, "images": arguments.images}
    path, results = arguments.output, {}
    if path is not None and path.exists():
        results = json.loads(path.read_text("utf-8"))  # an attack that is measured again replaces its old results
    for name in arguments.only:
        rows = PARTS[name](**settings, say=_print)
        facts = environment()
        for row in rows:
            facts["versions"] |= row.pop("versions", {})
        results[name] = rows
        results.setdefault("runs", {})[name] = {"settings": settings, **facts}
        if path is not None:
            write_json(path, rounded(results))
    return 0


def _draw(arguments: argparse.Namespace) -> int:
    from benchmarks.draw import picture

    output = arguments.output or arguments.input.with_suffix(".png")
    atomic_write(output, picture(json.loads(arguments.input.read_text("utf-8"))))
    print(f"drew {output}")
    return 0


def rounded(value: Any) -> Any:
    """Return a nested value with its floating-point numbers rounded to four digits; measured times have no more.

    >>> rounded({"seconds": [0.0123456]})
    {'seconds': [0.01235]}
    """
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [rounded(entry) for entry in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _show_progress(text: str) -> None:
    """Show a line of progress that the next line overwrites, if the standard error is a terminal."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def _print(text: str) -> None:
    _show_progress("")
    if text:
        print(text, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    arguments = build_parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except KeyboardInterrupt:
        print("benchmarks: interrupted", file=sys.stderr)
        return 130
    except (MissingLibraryError, WorkerError, ImportError, OSError, ValueError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
