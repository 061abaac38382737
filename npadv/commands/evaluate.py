"""``npadv evaluate``: a named set of measurements on one or several networks from files, as a page and as numbers.

The folder receives ``index.html``, one page with all figures, and ``results.json``, the same as numbers, with settings,
versions and machine. Ctrl-C writes both with the finished measurements, and both say so. Each measurement is also saved in
``checkpoint.npz`` when it is finished, so that ``--resume`` goes on, after a killed run too.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from npadv.commands.evaluation_checkpoint import load_measurements, save_measurements
from npadv.commands.evaluation_numbers import numbers_of
from npadv.commands.evaluation_page import joined, sections_of, summary_of, table_of
from npadv.commands.facts import page_facts
from npadv.commands.folder import check_folder, open_folder
from npadv.commands.models import Model, open_data, open_model
from npadv.commands.parser import DATA, Listing, Parser, add_common, positive
from npadv.commands.presets import PRESETS, RADII, Preset, listing
from npadv.commands.results import differences, read_result
from npadv.commands.runner import run_measurements
from npadv.environment import environment
from npadv.files import as_json, atomic_write, write_json
from npadv.progress import interrupts_held
from npadv.report import check_installed, format_table, render_page

PAGE, RESULTS, CHECKPOINT = FILES = ("index.html", "results.json", "checkpoint.npz")


def add_options(parser: Parser) -> None:
    """Add the options of ``npadv evaluate``."""
    parser.add_argument("--list", action=Listing, lines=listing, help="describe the sets, and exit")
    parser.add_argument(
        "--model", type=Path, nargs="+", required=True, metavar="FILE", help="weights from npadv train or npadv demo"
    )
    parser.add_argument("--network", metavar="NAME", help="the network in the files, if they do not name it")
    parser.add_argument(
        "--data",
        choices=DATA,
        help="measure on the test images of this data set (default: the one the files were trained on)",
    )
    parser.add_argument(
        "--set", choices=tuple(PRESETS), default="standard", help="set of measurements (default: standard)"
    )
    parser.add_argument(
        "--examples", type=positive, metavar="N", help="number of test images to attack (default: the set's)"
    )
    parser.add_argument("--resume", action="store_true", help="continue the stopped run in the folder")
    parser.add_argument("--overwrite", action="store_true", help="replace another run's results in the folder")
    add_common(parser, out="runs/evaluate-NETWORK-SEED", out_help="folder for index.html and results.json")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure, write the folder, print the table, and return the contents of ``results.json``."""
    if arguments.resume and arguments.overwrite:
        raise ValueError("--resume: expected without --overwrite, got both")
    check_installed()
    opened = [open_model(path, network=arguments.network, device=arguments.device) for path in arguments.model]
    models = _named(opened)
    dataset = open_data(arguments.data, *opened)
    preset, radii = _preset(arguments, len(dataset.test)), RADII[dataset.name]
    out = arguments.out or Path("runs") / f"evaluate-{'-'.join(models)}-{arguments.seed}"
    settings = {
        "set": arguments.set,
        "plan": asdict(preset),
        "radii": asdict(radii),
        "data": dataset.name,
        "seed": arguments.seed,
        "models": {name: {**model.facts, "trained_on": model.data} for name, model in models.items()},
    }
    with open_folder(out, *FILES):
        check_folder(
            out, *FILES, overwrite=arguments.overwrite or arguments.resume, hint="--resume it if it is partial, "
        )
        if arguments.resume and _is_complete(out, settings):
            print(f"{out} is complete, nothing is left to do")
            return read_result(out / RESULTS)
        done = _load(out / CHECKPOINT, settings) if arguments.resume else {}
        found = run_measurements(
            models,
            dataset,
            preset,
            radii,
            seed=arguments.seed,
            progress=False if arguments.quiet else None,
            say=(lambda line: None) if arguments.quiet else (lambda line: print(line, flush=True)),
            done=done,
            save=lambda: _save(out, settings, done),
        )
        if not found.clean:
            raise KeyboardInterrupt("no measurement is finished; nothing was written")
        results = {**settings, **numbers_of(found), **environment(arguments.device)}
        table = table_of(found, radii)
        html = render_page(
            title=f"How robust {'is' if len(models) == 1 else 'are'} {joined(list(models))}?",
            summary=summary_of(found, radii, dataset),
            sections=sections_of(found, radii, dataset),
            table=table,
            facts=page_facts(
                results,
                set=f"{arguments.set}, {preset.examples} examples",
                weights={name: model.digest[:12] for name, model in models.items()},
            ),
        )
        with interrupts_held():  # a signal waits until the files agree with each other
            (out / RESULTS).unlink(missing_ok=True)
            page = atomic_write(out / PAGE, html)
            write_json(out / RESULTS, results)  # last: it says whether the evaluation is complete
            if found.complete:
                (out / CHECKPOINT).unlink(missing_ok=True)
    if not found.complete:
        raise KeyboardInterrupt(f"the finished measurements are in {out}; the same command with --resume goes on")
    print(f"{format_table(table)}\n\n{page} written after {found.seconds:.0f} s")
    return results


def _save(out: Path, settings: Mapping[str, Any], done: Mapping[str, Any]) -> None:
    """Write the finished measurements; with the first of them, the run that this one overwrites is removed."""
    if len(done) == 2:  # a result, and the time it took
        for name in (RESULTS, PAGE):
            (out / name).unlink(missing_ok=True)
    save_measurements(out / CHECKPOINT, settings, done)


def _load(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the finished measurements of the run to continue, if its settings are the same."""
    if not path.exists():
        return {}
    before, done = load_measurements(path)
    for name, (was, value) in differences(before, as_json(settings)):
        raise ValueError(f"{path}: was written with {name} {was!r:.70}, this run has {value!r:.70}")
    return done


def _is_complete(out: Path, settings: Mapping[str, Any]) -> bool:
    """Return whether the folder holds the page and the complete results of a run with the same settings."""
    if not (out / RESULTS).exists() or not (out / PAGE).exists():
        return False
    results = read_result(out / RESULTS)
    for name, (was, value) in differences(results, as_json(settings)):
        raise ValueError(f"{out / RESULTS}: was written with {name} {was!r:.70}, this run has {value!r:.70}")
    return results.get("complete") is True


def _preset(arguments: argparse.Namespace, available: int) -> Preset:
    """Return the preset that ``--set`` names, with the number of examples that ``--examples`` gives."""
    preset, count = PRESETS[arguments.set], arguments.examples
    if count is None:
        return preset
    if count > available:
        raise ValueError(f"--examples: expected at most {available}, got {count}")
    return replace(preset, examples=count)


def _named(models: list[Model]) -> dict[str, Model]:
    """Return models by distinct names: the networks', else the files' or their folders', else the paths."""
    names = [model.name for model in models]
    if len(set(names)) < len(names):
        names = [m.path.stem if m.path.stem != "weights" else m.path.resolve().parent.name for m in models]
    if len(set(names)) < len(names):
        names = [str(model.path) for model in models]
    if len(set(names)) < len(names):
        raise ValueError(f"--model: expected each file once, got {', '.join(names)}")
    return dict(zip(names, models, strict=True))
