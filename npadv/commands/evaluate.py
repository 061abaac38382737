"""``npadv evaluate``: a named set of measurements on one or several networks from files, as a page and as numbers.

The folder receives ``index.html``, one page with everything drawn, and ``results.json``, the same as numbers, with settings,
versions and machine. Ctrl-C writes both with what was measured until then, and says so in both.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from npadv.commands.evaluation_page import joined, sections_of, summary_of, table_of
from npadv.commands.folder import check_folder
from npadv.commands.measure import Measured, measure
from npadv.commands.models import Model, open_data, open_model
from npadv.commands.parser import DATA, Listing, Parser, add_common, positive
from npadv.commands.sets import RADII, SETS, listing
from npadv.environment import environment
from npadv.evaluation import Rate
from npadv.files import write_json
from npadv.report import check_installed, format_table, write_page


def add_options(parser: Parser) -> None:
    """Add the options of ``npadv evaluate``."""
    parser.add_argument("--list", action=Listing, lines=listing, help="explain the sets, and exit")
    parser.add_argument(
        "--model", type=Path, nargs="+", required=True, metavar="FILE", help="weights of npadv train or npadv demo"
    )
    parser.add_argument("--network", metavar="NAME", help="the network in the files, where they do not say")
    parser.add_argument(
        "--data", choices=DATA, help="whose test images to use (default: what the files were trained on)"
    )
    parser.add_argument("--set", choices=tuple(SETS), default="standard", help="what to measure (default: standard)")
    parser.add_argument("--examples", type=positive, metavar="N", help="test images to attack (default: the set's)")
    parser.add_argument("--overwrite", action="store_true", help="replace another run's results in the folder")
    add_common(parser, out="runs/evaluate-NETWORK-SEED", out_help="folder for index.html and results.json")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure, write the folder, print the table, and return what ``results.json`` holds."""
    check_installed()
    opened = [open_model(path, network=arguments.network, device=arguments.device) for path in arguments.model]
    models = _named(opened)
    dataset = open_data(arguments.data, *opened)
    plan, radii = SETS[arguments.set], RADII[dataset.name]
    if arguments.examples is not None:
        if arguments.examples > len(dataset.test):
            raise ValueError(f"--examples: expected at most {len(dataset.test)}, got {arguments.examples}")
        plan = replace(plan, examples=arguments.examples)
    out = arguments.out or Path("runs") / f"evaluate-{'-'.join(models)}-{arguments.seed}"
    check_folder(out, "index.html", "results.json", overwrite=arguments.overwrite)
    settings = {
        "set": arguments.set,
        "plan": asdict(plan),
        "radii": asdict(radii),
        "data": dataset.name,
        "seed": arguments.seed,
        "models": {name: {**model.facts, "trained_on": model.data} for name, model in models.items()},
    }
    found = measure(
        models,
        dataset,
        plan,
        radii,
        seed=arguments.seed,
        progress=False if arguments.quiet else None,
        say=(lambda line: None) if arguments.quiet else (lambda line: print(line, flush=True)),
    )
    if not found.clean:
        raise KeyboardInterrupt("nothing is finished, and nothing was written")
    results = {**settings, **numbers_of(found), **environment(arguments.device)}
    table = table_of(found, radii)
    page = out / "index.html"
    write_json(out / "results.json", results)
    write_page(
        page,
        title=f"How robust {'is' if len(models) == 1 else 'are'} {joined(list(models))}?",
        summary=summary_of(found, radii, dataset),
        sections=sections_of(found, radii, dataset),
        table=table,
        facts=_facts(results),
    )
    if not found.complete:
        raise KeyboardInterrupt(f"what was measured until then is in {out}")
    print(f"{format_table(table)}\n\n{page} written after {found.seconds:.0f} s")
    return results


def _named(models: list[Model]) -> dict[str, Model]:
    """Return models by names that tell them apart: the network's, or else the file's or its folder's."""
    names = [model.name for model in models]
    if len(set(names)) < len(names):
        names = [m.path.stem if m.path.stem != "weights" else m.path.resolve().parent.name for m in models]
    if len(set(names)) < len(names):
        names = [str(model.path) for model in models]
    if len(set(names)) < len(names):
        raise ValueError(f"--model: expected each file once, got {', '.join(names)}")
    return dict(zip(names, models, strict=True))


# Numbers --------------------------------------------------------------------------------------------------------------


def numbers_of(found: Measured) -> dict[str, Any]:
    """Return all measurements as plain numbers: rates as counts with their 95% intervals, infinite distances as null."""
    matrix = found.transfer
    return {
        "complete": found.complete,
        "seconds": found.seconds,
        "clean_error": found.clean,
        "accuracy": {
            attack: {
                "eps": curve.eps,
                "examples": curve.correct.shape[-1],
                "models": {name: _rate(curve.accuracy(), i) for i, name in enumerate(curve.models)},
                "worst_so_far": {name: _rate(curve.worst_so_far(), i) for i, name in enumerate(curve.models)},
            }
            for attack, curve in found.curves.items()
        },
        "distances": {
            attack: {
                name: {
                    "examples": len(d.distance),
                    "already_wrong": int((d.distance == 0).sum()),
                    "not_broken": int(np.isinf(d.distance).sum()),
                    "quartiles": [_finite(d.quantile(q)) for q in (0.25, 0.5, 0.75)],
                }
                for name, d in of_models.items()
            }
            for attack, of_models in found.distances.items()
            if of_models
        },
        "transfer": matrix
        and {
            "crafters": matrix.crafters,
            "targets": matrix.targets,
            "clean": _rate(matrix.clean()),
            "all_examples": _rate(matrix.errors()),
            "crafter_right_then_fooled": _rate(matrix.errors("crafter_right", "crafter_fooled")),
        },
        "masking": {
            name: {
                check.name: {
                    "suspicious": check.suspicious,
                    "explanation": check.explanation,
                    "numbers": {key: _finite(value) for key, value in check.numbers.items()},
                }
                for check in checks
            }
            for name, checks in found.checks.items()
        },
        "church_windows": {
            name: {"true_class_share": float((w.classes == w.labels[:, None, None]).mean()), "examples": len(w.labels)}
            for name, w in found.windows.items()
        },
    }


def _rate(rate: Rate, *where: int) -> dict[str, Any]:
    parts = {"hits": rate.hits, "count": rate.count, "rate": rate.rate, "low": rate.low, "high": rate.high}
    return {name: _listed(np.asarray(values)[where]) for name, values in parts.items()}


def _listed(values: np.ndarray) -> Any:
    """Return an array as lists, in which a number that is not finite, as the rate of none, is None."""
    return [_listed(value) for value in values] if values.ndim else _finite(values.item())


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _facts(results: dict[str, Any]) -> dict[str, Any]:
    """Return what stands at the page's foot."""
    machine = results["machine"]
    return {
        "set": f"{results['set']}, {results['plan']['examples']} examples",
        "data": results["data"],
        "seed": results["seed"],
        "weights": {name: model["weights_sha256"][:12] for name, model in results["models"].items()},
        "time": f"{results['seconds']:.0f} s",
        "versions": results["versions"],
        "machine": f"{machine['processor']}, {machine['cores']} cores, {machine['system']}",
        "device": results["device"].get("card", results["device"]["name"]),
    }
