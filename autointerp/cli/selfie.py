"""`autointerp selfie`: vectors of a text in the model's own words, beside controls."""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autointerp.cli.places import layers_of, load, model_options, place_options, places
from autointerp.cli.screen import Screen, say
from autointerp.errors import BadInput

if TYPE_CHECKING:
    from autointerp.lenses.selfie import Interpreter, SelfieOptions
    from autointerp.lenses.selfie_records import SelfieTable
    from autointerp.lenses.selfie_texts import ReadPlan, SourceText
    from autointerp.model import LanguageModel

PROMPTS = ("gist", "restate", "thing", "describe", "next", "identity")
MAX_READINGS = 2000


def selfie_options(parser: argparse.ArgumentParser) -> None:
    """Options of `selfie`."""
    add = parser.add_argument
    add("text", nargs="?", metavar="TEXT", help="the text to read")
    add("--examples", metavar="FILE", help='a JSON list of texts or of {"text", "category", "raw"}, or {"examples": '
        '[{"prompt", "category", "raw"}]}; needs --out')  # fmt: skip
    add("--head", metavar="HEAD", help="read the output of this head (L5H1) instead of the residual stream")
    add("--raw", action="store_true", help="feed TEXT as it is, not as a message of the chat template")
    place_options(parser)
    group = parser.add_argument_group("reading")
    add = group.add_argument
    add("--prompt", action="append", metavar="NAME", help=f"{', '.join(PROMPTS)}, or a text with {{P}} where the "
        "vectors go; repeatable (all but identity); below 3 no verdict can be specific")  # fmt: skip
    add("--prompts", metavar="DIR", help="folder whose templates selfie_NAME.jinja win over the shipped ones")
    add("--placeholders", type=int, default=5, metavar="N", help="placeholders in a prompt (5)")
    add("--block", type=int, metavar="K", help="block whose input the vector is put into (1)")
    add("--mode", choices=["normalized", "addition", "norm_matched"], help="replace or mix, add, or replace at the "
        "norm that was there (normalized; norm_matched for heads)")  # fmt: skip
    add("--strength", metavar="A", default="1", help="of the insertion, or search (1)")
    add("--max-new-tokens", type=int, default=30, metavar="N", help="length of a reading (30)")
    add("--nulls", type=int, default=24, metavar="N", help="random vectors to compare with (24)")
    add("--seed", type=int, default=0, metavar="N", help="seed of the controls (0)")
    add("--batch-size", type=int, default=32, metavar="N", help="rows run together (32)")
    add("--max-readings", type=int, default=MAX_READINGS, metavar="N", help=f"refuse to make more ({MAX_READINGS})")
    add("--format", choices=["table", "csv", "json", "html"], default="table")
    add("--out", metavar="FILE", help="write the CSV here, row by row; the same command goes on from there")
    model_options(parser)
    parser.set_defaults(run=selfie)


def selfie(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    """Read a text or a file of them."""
    if bool(arguments.text) == bool(arguments.examples):
        raise BadInput("give either a TEXT or --examples FILE.")
    if arguments.examples and not arguments.out:
        raise BadInput("--examples needs --out FILE, where the readings go.")
    if arguments.out and arguments.head:
        raise BadInput("--out is not for --head. Redirect the output of --format csv.")
    warnings.filterwarnings("ignore")
    screen = Screen()
    from autointerp.lenses.selfie_texts import SourceText, read_examples

    own = SourceText(arguments.text, raw=arguments.raw)
    texts = read_examples(Path(arguments.examples)) if arguments.examples else [own]
    options = _options(arguments)
    screen.note("loading the model")
    model = load(arguments)
    interpreter = _interpreter(model, options, arguments.prompts)
    if arguments.head:
        return _say(_head_table(interpreter, arguments, screen), arguments.format, screen)
    plan = _plan(arguments, model, texts)
    _check_size(interpreter, texts, plan, arguments.max_readings, screen)
    if arguments.out:
        return _job(interpreter, texts, plan, Path(arguments.out), screen)
    from autointerp.lenses.selfie import interpret_sources
    from autointerp.lenses.selfie_texts import text_sources

    table = interpret_sources(interpreter, text_sources(model, texts[0], plan), progress=screen)
    return _say(table, arguments.format, screen)


def _say(table: SelfieTable, form: str, screen: Screen) -> int:
    screen.close()
    writers = {"csv": table.to_csv, "json": table.to_json, "html": table.to_page, "table": table.to_markdown}
    say(writers[form]())
    return 0


def _job(interpreter: Interpreter, texts: Sequence[SourceText], plan: ReadPlan, out: Path, screen: Screen) -> int:
    from autointerp.lenses.selfie_job import run_job

    summary = run_job(interpreter, texts, plan, out, screen)
    screen.close()
    say(f"{out}: {summary.written} readings written, {summary.found} were there; {summary.specific} of the new ones "
        f"are specific; {interpreter.tokens_fed:,} tokens through the model")  # fmt: skip
    return 0


def _options(arguments: argparse.Namespace) -> SelfieOptions:
    from autointerp.lenses.selfie import SelfieOptions

    for name in ("max_new_tokens", "batch_size", "placeholders"):
        if getattr(arguments, name) < 1:
            raise BadInput(f"--{name.replace('_', '-')} is {getattr(arguments, name)}; give at least 1.")
    if arguments.nulls < 0:
        raise BadInput(f"--nulls is {arguments.nulls}; give 0 or more.")
    given = {"prompts": tuple(arguments.prompt)} if arguments.prompt else {}
    return SelfieOptions(
        **given, placeholders=arguments.placeholders, block=arguments.block, mode=arguments.mode,
        strength=_strength(arguments.strength), max_new_tokens=arguments.max_new_tokens, seed=arguments.seed,
        nulls=arguments.nulls, batch_size=arguments.batch_size,
    )  # fmt: skip


def _strength(text: str) -> float:
    if text == "search":
        return text  # type: ignore[return-value]
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadInput(f"--strength {text!r} is no number. Give one, or search.")
    return value


def _interpreter(model: LanguageModel, options: SelfieOptions, folder: str | None) -> Interpreter:
    from autointerp.lenses.selfie import Interpreter
    from autointerp.prompting import Templates

    return Interpreter(model, options, Templates(Path(folder)) if folder else None)


def _plan(arguments: argparse.Namespace, model: LanguageModel, texts: Sequence[SourceText]) -> ReadPlan:
    from autointerp.lenses.selfie_texts import ReadPlan, fed_text

    if arguments.examples and arguments.at is not None:
        raise BadInput("--at is for one TEXT. Use --positions with --examples.")
    chosen = places(arguments, model, fed_text(model, texts[0]))
    return ReadPlan(layers_of(arguments.layers, model), chosen, continuation=10)


def _check_size(
    interpreter: Interpreter, texts: Sequence[SourceText], plan: ReadPlan, most: int, screen: Screen
) -> None:
    from autointerp.lenses.sources import default_layers

    model = interpreter.model
    layers = len(default_layers(model) if plan.layers is None else plan.layers)
    tokens = sum(len(model.encode(text.text)[0]) if plan.positions is None else len(plan.positions) for text in texts)
    n = tokens * layers * len(interpreter.prompts)
    told = f"{n} readings ({tokens} tokens, {layers} layers, {len(interpreter.prompts)} prompts)"
    if n > most:
        raise BadInput(f"that is {told}, over --max-readings {most}. Name layers or positions, or raise it.")
    screen.note(f"{told}; each with controls")


def _head_table(interpreter: Interpreter, arguments: argparse.Namespace, screen: Screen) -> SelfieTable:
    """The head's output at tokens of the text."""
    from autointerp.lenses.head_vectors import text_head_sources
    from autointerp.lenses.selfie import interpret_sources
    from autointerp.lenses.sources import feed_text
    from autointerp.records import Head

    if arguments.layers:
        raise BadInput("--head names its layer. Leave --layers out.")
    try:
        head = Head.parse(arguments.head)
    except ValueError as error:
        raise BadInput(f"{error}.") from None
    positions = places(arguments, interpreter.model, feed_text(interpreter.model, arguments.text))
    sources = text_head_sources(interpreter.model, head, arguments.text, positions)
    n = len(sources) * len(interpreter.prompts)
    if n > arguments.max_readings:
        raise BadInput(f"that is {n} readings, over --max-readings {arguments.max_readings}. Name --positions.")
    return interpret_sources(interpreter, sources, progress=screen)
