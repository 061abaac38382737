"""The command line: ``python -m benchmarks cpu`` and ``attacks`` measure, ``draw`` redraws the picture."""

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
from benchmarks.process import MissingLibraryError, WorkerError, tuning
from benchmarks.table import extras, lines, table
from benchmarks.timing import Plan
from benchmarks.workloads import Workload, select
from npadv.environment import environment
from npadv.files import atomic_write, write_json

RESULTS = Path(__file__).parent / "speed" / "cpu.json"
EXTRAS = ("memory", "processes", "scaling")  # what --only also takes


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of both commands."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="How fast npadv is, beside PyTorch.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    cpu = commands.add_parser("cpu", help="measure on this machine's processor")
    cpu.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="KEY",
        help=f"some workloads, by their keys or how these begin (a c1 g), or {', '.join(EXTRAS)}; nothing is written "
        "without --output",
    )
    cpu.add_argument("--rounds", type=int, default=Plan.rounds, help="turns of each side (default: %(default)s)")
    cpu.add_argument(
        "--budget", type=float, default=Plan.budget, metavar="SECONDS", help="of each turn (default: %(default)s)"
    )
    cpu.add_argument("--threads", type=int, default=2, help="of each side (default: %(default)s)")
    cpu.add_argument("--peers", action="store_true", help="JAX, autograd and textbook NumPy beside, too")
    cpu.add_argument("--no-scaling", action="store_true", help="leave out how time grows with batch and width")
    cpu.add_argument("--keep-tuning", action="store_true", help="let the shell's OPENBLAS_*, MKL_*, .. reach the sides")
    cpu.add_argument("--output", type=Path, metavar="FILE", help=f"where results go (default: speed/{RESULTS.name})")
    cpu.add_argument(
        "--check",
        action="store_true",
        help=f"{CHECK_RUNS} runs of the workloads with a bar; fail where {CHECK_MISSES} of them miss it by more than 15%%",
    )
    cpu.set_defaults(run=_cpu)
    attacks = commands.add_parser("attacks", help="the attacks, beside the way they are usually computed")
    attacks.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="some of them")
    attacks.add_argument("--batch", type=int, default=256, help="images attacked together (default: %(default)s)")
    attacks.add_argument("--images", type=int, default=8, help="images for the slow side (default: %(default)s)")
    attacks.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="where results go, as JSON; other parts in it stay (default: nowhere)",
    )
    attacks.set_defaults(run=_attacks)
    draw = commands.add_parser("draw", help="redraw the picture from results")
    draw.add_argument("--input", type=Path, default=RESULTS, metavar="FILE", help="results (default: speed/cpu.json)")
    draw.add_argument("--output", type=Path, metavar="FILE", help="the picture (default: beside the results, .png)")
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
    figures = _figures(arguments, start)
    chosen = arguments.only or [name for name in EXTRAS if not (name == "scaling" and arguments.no_scaling)]
    results = _facts(arguments, plan, workloads, start) | {"rows": []}
    output = arguments.output or (None if arguments.only else RESULTS)
    complete = False
    try:
        for row in compare(workloads, plan, start, _say):
            results["rows"].append(row)
            _print("\n".join(lines(row)))
        for name, measure in figures.items():
            if name in chosen:
                results[name] = measure()
        complete = True
    finally:
        _print("")
        if output is not None and (complete or results["rows"]):
            # What an interrupt leaves must not replace a whole run's results.
            place = output if complete else output.with_suffix(".partial.json")
            write_json(place, tidy(results))
            print(f"{'results' if complete else 'the finished rows'} are in {place}\n")
    print(table(results["rows"]) if results["rows"] else "", *extras(results), sep="\n")
    return 0


def _figures(arguments: argparse.Namespace, start: Start) -> dict[str, Callable[[], Any]]:
    """Return what is measured beside the rows, by name."""

    def grow() -> Any:
        plan = Plan(rounds=min(3, arguments.rounds), budget=arguments.budget)
        counts = sorted({1, arguments.threads})
        return scaling(lambda threads: starter(threads, keep_tuning=arguments.keep_tuning), counts, plan, _say)

    return {
        "memory": lambda: memory(start, _say),
        "processes": lambda: processes(arguments.threads, _say, keep_tuning=arguments.keep_tuning),
        "scaling": grow,
    }


def _facts(arguments: argparse.Namespace, plan: Plan, workloads: list[Workload], start: Start) -> dict[str, Any]:
    """Return what the numbers depend on; raise MissingLibraryError before anything is measured."""
    sides = {entry.side for w in workloads for entry in w.entries.values()} | {"npadv", "torch"}
    found = versions(sorted(sides), start)
    facts = environment()
    facts["versions"] |= found
    removed = "kept" if arguments.keep_tuning else "removed"
    settings = {"threads": arguments.threads, "rounds": plan.rounds, "budget": plan.budget, "dtype": "float32"}
    return {"settings": settings | {f"tuning_{removed}": tuning(os.environ)}, **facts}


def _check(workloads: list[Workload], plan: Plan, start: Start) -> int:
    """Run three times and say which ratios missed their bar in two."""
    runs: list[list[Row]] = []
    for i in range(CHECK_RUNS):
        _print(f"run {i + 1} of {CHECK_RUNS}")
        runs.append([])
        for row in compare(workloads, plan, start, _say):
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
    place, results = arguments.output, {}
    if place is not None and place.exists():
        results = json.loads(place.read_text("utf-8"))  # a part that is measured again replaces what it was
    for name in arguments.only:
        rows = PARTS[name](**settings, say=_print)
        facts = environment()
        for row in rows:
            facts["versions"] |= row.pop("versions", {})
        results[name] = rows
        results.setdefault("runs", {})[name] = {"settings": settings, **facts}
        if place is not None:
            write_json(place, tidy(results))
    return 0


def _draw(arguments: argparse.Namespace) -> int:
    from benchmarks.draw import picture

    output = arguments.output or arguments.input.with_suffix(".png")
    atomic_write(output, picture(json.loads(arguments.input.read_text("utf-8"))))
    print(f"drew {output}")
    return 0


def tidy(value: Any) -> Any:
    """Return a value with its floating-point numbers at four digits, which is what a clock is good for.

    >>> tidy({"seconds": [0.0123456]})
    {'seconds': [0.01235]}
    """
    if isinstance(value, dict):
        return {key: tidy(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [tidy(entry) for entry in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _say(text: str) -> None:
    """Show what is going on in a line that the next one overwrites, where somebody may be looking."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def _print(text: str) -> None:
    _say("")
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
