"""What each command does; heavy imports happen inside, so that `--help` costs nothing."""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autointerp.cli.features import render_unit
from autointerp.cli.jobs import (
    check_prompts,
    default_folder,
    exit_code,
    resolved,
    resolved_run,
    say_estimate,
    say_prompt,
    shown_command,
    silence,
)
from autointerp.cli.options import resolve
from autointerp.cli.screen import Screen, say
from autointerp.cli.sources import sources_of
from autointerp.errors import BadInput
from autointerp.records import Head

if TYPE_CHECKING:
    from autointerp.pipeline import JobResult


def describe_all_heads(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    """The main job."""
    screen, result = _job(arguments, words)
    screen.close()
    if result.estimate is not None:
        say_estimate(result.estimate)
        say(str(result.lenses))
        return 0
    _say_result(result)
    return exit_code(result)


def describe_head(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    """The main job for one head, and its card."""
    _one_head(arguments.heads, "describe-feature")
    screen, result = _job(arguments, words)
    screen.close()
    if result.estimate is not None:
        say_estimate(result.estimate)
        say(str(result.lenses))
        return 0
    from autointerp.report import card_text

    for report in result.reports:
        say(card_text(report))
    return exit_code(result)


def multiples(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    """Ranked or random pairs of one head over the explain split of the corpus."""
    head = _one_head(arguments.heads, "activations")
    config, _ = resolve(arguments, {})
    silence()
    from autointerp.evidence.multiples import Order, RandomQuery, RankedQuery, random_multiples, ranked_multiples
    from autointerp.evidence.windows import SplitWindows
    from autointerp.pipeline import load_inputs

    with tempfile.TemporaryDirectory() as folder:
        inputs = load_inputs(config, sources_of(config), Path(folder))
        windows = SplitWindows(inputs.corpus.explain())
        tokens = {"src_token": arguments.token, "dst_token": arguments.dst_token}
        if arguments.random is not None:
            drawn = RandomQuery(n=arguments.random, seed=config.seed, **tokens)
            table = random_multiples(inputs.model, windows, head, drawn)
        else:
            n = arguments.bottom if arguments.bottom is not None else 10 if arguments.top is None else arguments.top
            order: Order = "bottom" if arguments.bottom is not None else "top"
            query = RankedQuery(by=arguments.by, order=order, n=n, **tokens)
            table = ranked_multiples(inputs.model, windows, head, query)
        writers = {"csv": table.to_csv, "json": table.to_json, "html": table.to_html, "table": table.to_markdown}
        say(writers[arguments.format]())
    return 0


def render(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    """The prompt of one unit, from a run's evidence or collected now."""
    if re.fullmatch(r"\s*[Ll]\d+[NnFf]\d+\s*", arguments.heads):
        render_unit(arguments)
        return 0
    head = _one_head(arguments.heads, "render")
    config, settings = resolve(arguments, {})
    check_prompts(config)
    silence()
    from autointerp.explain import explain_prompt
    from autointerp.llm import Capabilities, PromptRoom
    from autointerp.pipeline.collecting import collected_evidence, evidence_of
    from autointerp.pipeline.inputs import load_inputs
    from autointerp.pipeline.lens_readings import plan_lenses, read_lenses
    from autointerp.pipeline.talking import language_settings, saved_prompting, templates
    from autointerp.store import RunFolder

    server = Capabilities()
    if arguments.out:
        evidence = evidence_of(Path(arguments.out), head)
        given = {name: getattr(config, name) for name in ("prompts", "instruction") if getattr(config, name)}
        config, server = saved_prompting(Path(arguments.out), given)
    else:
        screen = Screen()
        with tempfile.TemporaryDirectory() as folder, RunFolder(Path(folder)) as run:
            one = config.model_copy(update={"heads": str(head)})
            inputs = load_inputs(one, sources_of(config), Path(folder) / "cache")
            plan = plan_lenses(config, inputs.model)
            collected = collected_evidence(run, inputs, [head], config.seed, settings.batch_size, screen)
            collected, _ = read_lenses(run, inputs, collected, plan, screen)
        screen.close()
        evidence = collected.evidence[head]
    room = PromptRoom(server).of(language_settings(config).max_tokens)
    say_prompt(*explain_prompt(evidence, templates(config), language_settings(config), room))
    return 0


def report(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    """Pages from disk alone."""
    from autointerp.report import write_reports

    folder = Path(arguments.run_folder)
    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder. Give the folder of a run.")
    write_reports(folder)
    say(f"{folder / 'report.html'}")
    return 0


def check_server(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    """Probe the server and show what it can do."""
    config, settings = resolved(arguments, keep_server=True)
    import asyncio

    from autointerp.chat import Memory, chat_session
    from autointerp.llm import capability_table
    from autointerp.pipeline.talking import chat_options

    async def probed() -> list[tuple[str, str]]:
        memory = Memory()
        async with chat_session(chat_options(config, settings), memory, memory, fresh=True) as session:
            return [*capability_table(session.capabilities), *(("note", note) for note in session.notes)]

    rows = asyncio.run(probed())
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        say(f"{name:<{width}}  {value}")
    return 0


def _job(arguments: argparse.Namespace, words: Sequence[str]) -> tuple[Screen, JobResult]:
    screen = Screen()
    config, settings = resolved_run(arguments, screen)
    from autointerp.pipeline import JobOptions, run_job

    folder = Path(arguments.out) if arguments.out else default_folder(config)
    if not arguments.out:
        screen.note(f"run folder: {folder} (give --out {folder} to go on after an interruption)")
    options = JobOptions(settings, shown_command(words, config, settings), arguments.retry_failed, arguments.dry_run)
    return screen, run_job(config, sources_of(config), folder, options, screen)


def _one_head(text: str, of_units: str) -> Head:
    """`of_units`: the command that takes neurons and latents."""
    try:
        return Head.parse(text)
    except ValueError as error:
        units = f"`autointerp {of_units}` takes L3N17, a neuron, or L3F17 with --units sae:..., a latent"
        raise BadInput(f"{error}; {units}.") from None


def _say_result(result: JobResult) -> None:
    from collections import Counter

    verdicts = Counter(r.judgement.verdict for r in result.reports)
    states = Counter(r.status for r in result.reports)
    say(f"{len(result.reports)} heads: " + ", ".join(f"{n} {name}" for name, n in sorted(states.items())))
    say("verdicts: " + ", ".join(f"{n} {name}" for name, n in sorted(verdicts.items())))
    if result.lenses is not None:
        say(str(result.lenses))
    for note in result.notes:
        say(f"note: {note}")
    for failed in result.failed[:10]:
        say(f"failed: {failed.head}: {failed.failures[0].reason[:200]}")
    say(f"report: {result.folder / 'report.html'}")
