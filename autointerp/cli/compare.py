"""`autointerp compare RUN RUN`."""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from autointerp.cli.screen import say
from autointerp.errors import BadInput


def compare_options(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("run_a", metavar="RUN", help="a run folder")
    parser.add_argument("run_b", metavar="RUN", help="another one, over the same units")
    parser.add_argument("--all", action="store_true", help="list every unit, not only those that changed")
    parser.add_argument("--format", choices=["table", "csv", "json"], default="table")
    parser.set_defaults(run=compare)


def compare(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    """Two runs side by side."""
    from autointerp.report.compare import compare_runs, comparison_markdown

    folders = Path(arguments.run_a), Path(arguments.run_b)
    for folder in folders:
        if not folder.is_dir():
            raise BadInput(f"{folder} is not a folder. Give the folders of two runs.")
    found = compare_runs(*folders)
    pairs = found.pairs if arguments.all else found.changed
    if arguments.format == "csv":
        table = io.StringIO()
        writer = csv.DictWriter(table, found.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(pair.row() for pair in pairs)
        say(table.getvalue().rstrip("\n"))
    elif arguments.format == "json":
        totals = {"n": found.n, "mean": found.mean, "low": found.low, "high": found.high} if found.n else {"n": 0}
        lenses = {} if found.lenses is None else {"lenses": found.lenses.as_json()}
        rows = [p.row() for p in pairs]
        units = "units" if found.columns[0] == "unit" else "heads"
        say(json.dumps({"margin_difference": totals, "settings": found.settings, **lenses, units: rows}))
    else:
        say(comparison_markdown(found, (folders[0].name, folders[1].name), every=arguments.all).rstrip("\n"))
    return 0
