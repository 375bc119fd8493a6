"""`describe-all-features`, `describe-feature` and `activations`: neurons and latents on the command line."""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autointerp.cli.jobs import (
    check_prompts,
    default_folder,
    exit_code,
    resolved_run,
    say_estimate,
    say_prompt,
    shown_command,
    silence,
)
from autointerp.cli.options import explain_options, folder_options, resolve, run_options
from autointerp.cli.screen import Screen, say
from autointerp.cli.sources import sources_of
from autointerp.errors import BadInput
from autointerp.records import Feature

if TYPE_CHECKING:
    from autointerp.pipeline.feature_job import FeatureJobResult

UNITS_HELP = (
    "neurons (the default), neurons:L3, neurons:L3N10-L3N200, sae:FOLDER (cfg.json and sae_weights.safetensors), "
    "sae:FILE.safetensors with a JSON beside it, sae:hf:REPO[:SUBFOLDER], or sae:demo (of the embedded model)"
)


def all_features_options(parser: argparse.ArgumentParser) -> None:
    """Options of `describe-all-features`."""
    parser.add_argument("--units", metavar="SPEC", default="neurons", help=UNITS_HELP)
    parser.add_argument("--select", metavar="LIST", help='some of these units only: "L3F17,L3F20-L3F40"')
    parser.add_argument("--sample", type=int, metavar="N", help="N units only, a seeded draw that covers rare and "
        "frequent, weak and strong ones (0: all)")  # fmt: skip
    _shared(parser)
    parser.set_defaults(run=describe_all_features)


def one_feature_options(parser: argparse.ArgumentParser) -> None:
    """Options of `describe-feature`."""
    parser.add_argument("select", metavar="UNIT", help="L3N17 (a neuron), or L3F17 (a latent, with --units sae:...)")
    parser.add_argument("--units", metavar="SPEC", help=f"{UNITS_HELP}; for a neuron this can be left away")
    _shared(parser)
    parser.set_defaults(run=describe_feature)


def activations_options(parser: argparse.ArgumentParser) -> None:
    """Options of `activations`."""
    parser.add_argument("select", metavar="UNIT", help="L3N17 (a neuron), or L3F17 (a latent, with --units sae:...)")
    parser.add_argument("--units", metavar="SPEC", help=f"{UNITS_HELP}; for a neuron this can be left away")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--top", type=int, metavar="N", help="the N highest (default: --top 10)")
    which.add_argument("--bottom", type=int, metavar="N", help="the N lowest")
    which.add_argument("--random", type=int, metavar="N", help="N drawn evenly, seeded")
    parser.add_argument("--token", metavar="STR", help="only this token, exactly as the vocabulary has it")
    parser.add_argument("--format", choices=["table", "csv", "json", "html"], default="table")
    run_options(parser)
    parser.set_defaults(run=activations)


def _shared(parser: argparse.ArgumentParser) -> None:
    folder_options(parser, "units")
    run_options(parser)
    explain_options(parser, heads=False)


def describe_all_features(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    """The main job over neurons or latents."""
    result = _job(arguments, words)
    if result.estimate is not None:
        say_estimate(result.estimate)
        return 0
    _say_result(result)
    return exit_code(result)


def describe_feature(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    """The main job for one unit, and its card."""
    _one_unit(arguments)
    result = _job(arguments, words)
    if result.estimate is not None:
        say_estimate(result.estimate)
        return 0
    from autointerp.report.feature_card import feature_card_text

    for report in result.reports:
        say(feature_card_text(report))
    return exit_code(result)


def render_unit(arguments: argparse.Namespace) -> None:
    """The prompt of one neuron or latent, from a run's evidence or collected now."""
    arguments.select, arguments.heads = arguments.heads, None
    unit = _one_unit(arguments)
    config, settings = resolve(arguments, {})
    check_prompts(config)
    silence()
    from autointerp.explain.feature_language import feature_prompt
    from autointerp.features.collect import FeatureCollectSpec, collect_features
    from autointerp.features.units import load_units
    from autointerp.llm import Capabilities, PromptRoom
    from autointerp.pipeline.feature_collecting import feature_evidence_of
    from autointerp.pipeline.feature_lenses import words_on_disk
    from autointerp.pipeline.inputs import load_inputs
    from autointerp.pipeline.talking import language_settings, saved_prompting, templates

    server = Capabilities()
    if arguments.out:
        evidence = words_on_disk(Path(arguments.out), feature_evidence_of(Path(arguments.out), unit))
        given = {name: getattr(config, name) for name in ("prompts", "instruction") if getattr(config, name)}
        config, server = saved_prompting(Path(arguments.out), given)
    else:
        screen = Screen()
        with tempfile.TemporaryDirectory() as folder:
            inputs = load_inputs(config, sources_of(config), Path(folder))
            units = load_units(config.units, inputs.model)
            units.place(unit)
            spec = FeatureCollectSpec(config.seed, settings.batch_size)
            collected = collect_features(inputs.model, inputs.explain_windows(), units, [unit], spec, screen)
        screen.close()
        evidence = collected.evidence[unit]
    room = PromptRoom(server).of(language_settings(config).max_tokens)
    say_prompt(*feature_prompt(evidence, templates(config), language_settings(config), room))


def activations(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    """Ranked or random activations of one unit over the explain split."""
    unit = _one_unit(arguments)
    config, settings = resolve(arguments, {})
    silence()
    from autointerp.features.ranked import Ranked, ranked_activations
    from autointerp.features.units import load_units
    from autointerp.pipeline import load_inputs

    with tempfile.TemporaryDirectory() as folder:
        inputs = load_inputs(config, sources_of(config), Path(folder))
        units = load_units(config.units, inputs.model)
        n = next((n for n in (arguments.top, arguments.bottom, arguments.random) if n is not None), 10)
        asked = Ranked(_order(arguments), n, config.seed, arguments.token)
        table = ranked_activations(inputs.model, inputs.explain_windows(), units, unit, asked, settings.batch_size)
        writers = {"csv": table.to_csv, "json": table.to_json, "html": table.to_html, "table": table.to_markdown}
        say(writers[arguments.format]())
    return 0


def _order(arguments: argparse.Namespace) -> str:
    return next((name for name in ("bottom", "random") if getattr(arguments, name) is not None), "top")


def _one_unit(arguments: argparse.Namespace) -> Feature:
    """The unit of a command; a neuron names its own --units."""
    try:
        unit = Feature.parse(arguments.select)
    except ValueError as error:
        heads = "multiples" if arguments.run is activations else "describe-head"
        raise BadInput(f"{error}; `autointerp {heads}` takes L5H1, a head.") from None
    if arguments.units is None:
        if unit.kind == "latent":
            raise BadInput(f"{unit} is a latent: say of which autoencoder, with --units sae:FOLDER.")
        arguments.units = f"neurons:{unit}"
        arguments.select = None
    from autointerp.features.unit_names import unit_spec

    if (kind := unit_spec(arguments.units).kind) != unit.kind:
        raise BadInput(f"{unit} is a {unit.kind}, but --units {arguments.units} names {kind}s. Name one of those.")
    return unit


def _job(arguments: argparse.Namespace, words: Sequence[str]) -> FeatureJobResult:
    screen = Screen()
    config, settings = resolved_run(arguments, screen)
    from autointerp.pipeline import JobOptions
    from autointerp.pipeline.feature_job import run_feature_job

    folder = Path(arguments.out) if arguments.out else default_folder(config)
    if not arguments.out:
        screen.note(f"run folder: {folder} (give --out {folder} to go on after an interruption)")
    options = JobOptions(settings, shown_command(words, config, settings), arguments.retry_failed, arguments.dry_run)
    result = run_feature_job(config, sources_of(config), folder, options, screen)
    screen.close()
    return result


def _say_result(result: FeatureJobResult) -> None:
    verdicts = Counter(r.judgement.verdict for r in result.reports)
    states = Counter(r.status for r in result.reports)
    of = f" of {sum(result.states.values())}" if sum(result.states.values()) > len(result.reports) else ""
    kinds = ", ".join(f"{n} {name}" for name, n in sorted(result.states.items()))
    say(f"{len(result.reports)}{of} units: " + ", ".join(f"{n} {name}" for name, n in sorted(states.items())))
    say(f"all units of --units: {kinds}")
    say("verdicts: " + ", ".join(f"{n} {name}" for name, n in sorted(verdicts.items())))
    for note in result.notes:
        say(f"note: {note}")
    for failed in result.failed[:10]:
        say(f"failed: {failed.unit}: {failed.failures[0].reason[:200]}")
    say(f"report: {result.folder / 'report.html'}")
