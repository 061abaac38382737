"""``npadv evaluate``: a named set of measurements on one or several networks from files, as a page and as numbers.

The folder receives ``index.html``, one page with all figures, and ``results.json``, the same as numbers, with settings,
versions and machine. Ctrl-C writes both with the finished measurements, and both say so.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from npadv.commands.evaluation_numbers import numbers_of
from npadv.commands.evaluation_page import joined, sections_of, summary_of, table_of
from npadv.commands.facts import page_facts
from npadv.commands.folder import check_folder
from npadv.commands.models import Model, open_data, open_model
from npadv.commands.parser import DATA, Listing, Parser, add_common, positive
from npadv.commands.presets import PRESETS, RADII, Preset, listing
from npadv.commands.runner import run_measurements
from npadv.environment import environment
from npadv.files import write_json
from npadv.report import check_installed, format_table, write_page


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
    parser.add_argument("--overwrite", action="store_true", help="replace another run's results in the folder")
    add_common(parser, out="runs/evaluate-NETWORK-SEED", out_help="folder for index.html and results.json")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure, write the folder, print the table, and return the contents of ``results.json``."""
    check_installed()
    opened = [open_model(path, network=arguments.network, device=arguments.device) for path in arguments.model]
    models = _named(opened)
    dataset = open_data(arguments.data, *opened)
    preset, radii = _preset(arguments, len(dataset.test)), RADII[dataset.name]
    out = arguments.out or Path("runs") / f"evaluate-{'-'.join(models)}-{arguments.seed}"
    check_folder(out, "index.html", "results.json", overwrite=arguments.overwrite)

    found = run_measurements(
        models,
        dataset,
        preset,
        radii,
        seed=arguments.seed,
        progress=False if arguments.quiet else None,
        say=(lambda line: None) if arguments.quiet else (lambda line: print(line, flush=True)),
    )
    if not found.clean:
        raise KeyboardInterrupt("no measurement is finished; nothing was written")
    results = {
        "set": arguments.set,
        "plan": asdict(preset),
        "radii": asdict(radii),
        "data": dataset.name,
        "seed": arguments.seed,
        "models": {name: {**model.facts, "trained_on": model.data} for name, model in models.items()},
        **numbers_of(found),
        **environment(arguments.device),
    }

    write_json(out / "results.json", results)
    table = table_of(found, radii)
    page = write_page(
        out / "index.html",
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
    if not found.complete:
        raise KeyboardInterrupt(f"the finished measurements are in {out}")
    print(f"{format_table(table)}\n\n{page} written after {found.seconds:.0f} s")
    return results


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
