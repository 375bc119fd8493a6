"""`autointerp logit-lens`: what the model would predict before each block."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence

from autointerp.cli.places import layers_of, load, model_options, place_options, places
from autointerp.cli.screen import say


def logit_lens_options(parser: argparse.ArgumentParser) -> None:
    """Options of `logit-lens`."""
    add = parser.add_argument
    add("text", metavar="TEXT", help="the text to read")
    place_options(parser)
    add("--top", type=int, default=5, metavar="N", help="tokens of each cell in csv, json and the hover (5)")
    add("--format", choices=["table", "markdown", "csv", "json", "html"], default="table")
    model_options(parser)
    parser.set_defaults(run=logit_lens_command)


def logit_lens_command(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    """Read one text."""
    warnings.filterwarnings("ignore")
    from autointerp.lenses.logit import logit_lens
    from autointerp.lenses.sources import feed_text

    model = load(arguments)
    positions = places(arguments, model, feed_text(model, arguments.text))
    found = logit_lens(model, arguments.text, layers_of(arguments.layers, model), positions, arguments.top)
    writers = {"table": found.to_text, "markdown": found.to_markdown, "csv": found.to_csv, "json": found.to_json,
               "html": found.to_html}  # fmt: skip
    say(writers[arguments.format]())
    return 0
