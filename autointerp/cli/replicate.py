"""`autointerp replicate ioi`: the indirect-object study on a model."""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from autointerp.cli.places import load, model_options
from autointerp.cli.screen import Screen, say
from autointerp.errors import BadInput


def replicate_options(parser: argparse.ArgumentParser) -> None:
    """Options of `replicate`."""
    add = parser.add_argument
    add("study", choices=["ioi"], help="ioi: who gave what to whom, two persons named (arXiv 2211.00593)")
    add("--per-group", type=int, default=12, metavar="N", help="prompts of each of 12 templates x 2 orders (12)")
    add("--seed", type=int, default=0, metavar="N", help="seed of every draw (0)")
    add(
        "--out",
        metavar="DIR",
        help="write ioi.html, circuit.json (for describe-all-heads --circuit) and bench.json here",
    )
    model_options(parser)
    parser.set_defaults(run=replicate)


def replicate(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    """Run the study, write the page; the last line is JSON."""
    if arguments.per_group < 5:
        raise BadInput(f"--per-group is {arguments.per_group}; a template mean needs 5 prompts or more.")
    if arguments.out and Path(arguments.out).exists() and not Path(arguments.out).is_dir():
        raise BadInput(f"--out {arguments.out} is a file. Give a folder.")
    warnings.filterwarnings("ignore")
    screen = Screen()
    from autointerp.circuits.saved import CIRCUIT, write_circuit
    from autointerp.store.files import write_whole
    from autointerp.studies.ioi import StudySpec, run_study
    from autointerp.studies.ioi_circuit import circuit_of
    from autointerp.studies.ioi_classes import CLASSES
    from autointerp.studies.ioi_data import IoiSpec
    from autointerp.studies.ioi_report import page, summary

    screen.note("loading the model")
    model = replace(load(arguments), name=arguments.model or "demo")
    study = run_study(model, StudySpec(IoiSpec(per_group=arguments.per_group, seed=arguments.seed)), screen)
    screen.close()
    for note in study.notes:
        screen.note(f"note: {note}")
    for stage in study.stages:
        into = f"{stage.into} of {', '.join(map(str, stage.receivers))}" if stage.receivers else stage.into
        say(f"into {into} at {stage.position}: {', '.join(map(str, stage.senders)) or 'none'}")
    for kind in CLASSES:
        say(f"{kind}: {', '.join(str(one.head) for one in study.classes.of(kind)) or 'none found'}")
    say(str(study.faithfulness))
    found = summary(study)
    if arguments.out:
        folder = Path(arguments.out)
        write_whole(folder / "ioi.html", page(study).encode())
        write_circuit(folder / CIRCUIT, circuit_of(study))
        write_whole(folder / "bench.json", json.dumps(found, indent=1, allow_nan=False).encode())
        say(f"page: {folder / 'ioi.html'}")
    say(json.dumps(found, allow_nan=False))
    return 0
