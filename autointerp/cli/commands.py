"""What each command does; heavy imports happen inside, so that `--help` costs nothing."""

from __future__ import annotations

import argparse
import shlex
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autointerp.cli.options import resolve
from autointerp.cli.screen import Screen, say
from autointerp.cli.sources import sources_of
from autointerp.config import DEFAULT_AGENT, RunConfig, Settings, read_environment
from autointerp.errors import BadInput
from autointerp.records import Head

if TYPE_CHECKING:
    from autointerp.pipeline import JobResult
    from autointerp.pipeline.plan import Estimate

RUNS = Path("runs")


def describe_all_heads(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    """The main job."""
    screen, result = _job(arguments, words)
    screen.close()
    if result.estimate is not None:
        _say_estimate(result.estimate)
        say(str(result.lenses))
        return 0
    _say_result(result)
    return _exit_code(result)


def describe_head(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    """The main job for one head, and its card."""
    _one_head(arguments.heads)
    screen, result = _job(arguments, words)
    screen.close()
    if result.estimate is not None:
        _say_estimate(result.estimate)
        say(str(result.lenses))
        return 0
    from autointerp.report import card_text

    for report in result.reports:
        say(card_text(report))
    return _exit_code(result)


def multiples(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    """Ranked or random pairs of one head over the explain split of the corpus."""
    head = _one_head(arguments.heads)
    config, _ = resolve(arguments, {})
    _silence()
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
    """The prompt of one head, from a run's evidence or collected now."""
    head = _one_head(arguments.heads)
    config, settings = resolve(arguments, {})
    _check_prompts(config)
    _silence()
    from autointerp.explain import explain_prompt
    from autointerp.pipeline.collecting import collected_evidence, evidence_of
    from autointerp.pipeline.inputs import load_inputs
    from autointerp.pipeline.lens_readings import plan_lenses, read_lenses
    from autointerp.pipeline.talking import language_settings, saved_prompting, templates
    from autointerp.store import RunFolder

    context: int | None = None
    if arguments.out:
        evidence = evidence_of(Path(arguments.out), head)
        given = {name: getattr(config, name) for name in ("prompts", "instruction") if getattr(config, name)}
        config, context = saved_prompting(Path(arguments.out), given)
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
    prompt, notes = explain_prompt(evidence, templates(config), language_settings(config), context)
    for message in prompt.messages:
        say(f"=== {message['role']} ===\n{message['content']}")
    for note in notes:
        Screen().note(note)
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
    config, settings = _resolved(arguments)
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


def resolved_run(arguments: argparse.Namespace, screen: Screen) -> tuple[RunConfig, Settings]:
    """Config and settings of a command that describes heads; says which explainer was chosen, checks the templates."""
    config, settings = _resolved(arguments)
    _check_prompts(config)
    if arguments.explainer in (None, "auto"):
        screen.note(_chosen(config))
    _silence()
    return config, settings


def _job(arguments: argparse.Namespace, words: Sequence[str]) -> tuple[Screen, JobResult]:
    screen = Screen()
    config, settings = resolved_run(arguments, screen)
    from autointerp.pipeline import JobOptions, run_job

    folder = Path(arguments.out) if arguments.out else _default_folder(config)
    if not arguments.out:
        screen.note(f"run folder: {folder} (give --out {folder} to go on after an interruption)")
    shown = [word.replace(settings.base_url, config.base_url) if settings.base_url else word for word in words]
    options = JobOptions(settings, shlex.join(["autointerp", *shown]), arguments.retry_failed, arguments.dry_run)
    return screen, run_job(config, sources_of(config), folder, options, screen)


def _resolved(arguments: argparse.Namespace) -> tuple[RunConfig, Settings]:
    """Options over environment, `auto` decided. The config is saved, so its address holds no password."""
    from autointerp.llm.faults import shown_url

    config, settings = resolve(arguments, read_environment())
    try:
        config = config.model_copy(update={"base_url": config.base_url and shown_url(config.base_url.strip())})
    except ValueError as error:
        raise BadInput(f"--base-url {config.base_url!r} is not a web address ({error}). Correct it.") from None
    if config.explainer == "auto":
        server = config.llm or config.base_url or settings.api_key
        config = config.model_copy(update={"explainer": "llm" if server else "detectors"})
    if config.explainer != "llm" and arguments.run is not check_server:
        config = config.model_copy(update={"llm": "", "judge": "", "base_url": ""})  # they do not change its result
    return config.model_copy(update={"agent": _agent(arguments, config)}), settings


def _agent(arguments: argparse.Namespace, config: RunConfig) -> str:
    """`--agent` as given, else on where a language model explains: the config says which."""
    given = getattr(arguments, "agent", None)
    if given is None:
        return DEFAULT_AGENT if config.explainer == "llm" else "off"
    if config.agent_plan.on and config.explainer != "llm":
        raise BadInput(f"--agent {given} needs a language model. Give --llm or --base-url, or --agent off.")
    return config.agent


def _chosen(config: RunConfig) -> str:
    if config.explainer == "llm":
        return f"explainer: llm ({config.llm or 'the model that the server lists'})"
    return "explainer: detectors (no --base-url, OPENAI_API_KEY or --llm is set; give one to ask a language model)"


def _check_prompts(config: RunConfig) -> None:
    """A broken template must be known before an hour of collecting."""
    from autointerp.prompting import VARIABLES, Templates

    Templates(Path(config.prompts) if config.prompts else None).check(VARIABLES)


def _default_folder(config: RunConfig) -> Path:
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in Path(config.model).name or config.model)
    return RUNS / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}"


def _one_head(text: str) -> Head:
    try:
        return Head.parse(text)
    except ValueError as error:
        raise BadInput(f"{error}.") from None


def _silence() -> None:
    """Advice of the libraries would drown our own lines."""
    warnings.filterwarnings("ignore")


def _say_estimate(estimate: Estimate) -> None:
    say(f"{'purpose':<29} {'calls':>8} {'prompt tokens':>14} {'reply tokens':>14}")
    for purpose, calls, prompt, completion in estimate.rows:
        say(f"{purpose:<29} {calls:>8} {prompt:>14} {completion:>14}")
    cost = "unknown" if estimate.usd is None else f"{estimate.usd:.4f} USD"
    say(f"{'total':<29} {estimate.calls:>8}   cost at most {cost} ({estimate.price_source}); repairs not counted")
    if estimate.controls:
        say(f"of these {estimate.controls} are controls; single items are asked only where the order of items matters")
    if estimate.note:
        say(estimate.note)


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


def _exit_code(result: JobResult) -> int:
    if result.stopped is not None:
        Screen().note(f"autointerp: {result.stopped}")
        return result.stopped.exit_code
    return 1 if result.failed else 0
