"""`autointerp bench`: ground truth for explainers, for the scorers themselves, and for the agent loop."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autointerp.cli.bench_heads import heads_options
from autointerp.cli.options import explain_options
from autointerp.cli.screen import Screen, say
from autointerp.config import DEFAULT_AGENT
from autointerp.errors import BadInput

if TYPE_CHECKING:
    from autointerp.config import RunConfig, Settings
    from autointerp.pipeline.bench_report import BenchResult

PLANTED_SEEDS, CONTROL_SEEDS, AGENT_SEEDS = "0,1,2", "0", "0"
MAX_TOKENS, CONTEXT = 32_000, 96
FEATURE_MAX_TOKENS = 40_000  # enough that 30 test documents hold a place where each unit is active
# What decides about nonsense; the causal scorers could only refuse more of it.
CONTROL_SCORERS = "predicate,pointing,detection,effect,ablation"
# The loop is compared on what costs no call: nothing but describing takes tokens, and three runs end in minutes.
AGENT_SCORERS, AGENT_MAX_TOKENS = "predicate,ablation", 16_000


def bench_options(parser: argparse.ArgumentParser) -> None:
    """The benchmarks and their options."""
    subparsers = parser.add_subparsers(title="benchmarks", metavar="WHICH", required=True)
    for name, text, seeds, run in (
        ("planted", "describe heads whose function is known, and compare", PLANTED_SEEDS, bench_planted),
        ("controls", "how often descriptions that say nothing true come out supported", CONTROL_SEEDS, bench_controls),
        ("agent", "one shot against the agent loop at equal cost, on heads or neurons whose function is known",
         AGENT_SEEDS, bench_agent),
    ):  # fmt: skip
        one = subparsers.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        one.add_argument("--debug", action="store_true", help="show the traceback of an error")
        one.add_argument("--seeds", default=seeds, metavar="LIST", help=f"seeds of the planted models ({seeds})")
        one.add_argument("--out", metavar="DIR", help="folder of the runs, bench.json and bench.html "
                         f"(runs/<time>-bench-{name}); the same command with the same --out resumes")  # fmt: skip
        _run_options(one, AGENT_MAX_TOKENS if name == "agent" else MAX_TOKENS)
        explain_options(one)
        if name != "controls":
            others = "the neurons" + (" and the dictionary" if name == "planted" else "")
            one.add_argument("--units", dest="planted_units", choices=["heads", "features"], default="heads",
                             help=f"heads (the default), or features: {others} of other planted models")  # fmt: skip
        if name == "agent":
            one.add_argument("--heads", metavar="LIST", help='some heads only: "0.1,3.*,L5H0-L5H3"')
            one.add_argument("--select", metavar="LIST", help='some neurons only: "L0N7,L1N0-L1N5"')
        one.set_defaults(run=run, bench=name, retry_failed=False, dry_run=False)
    heads_options(subparsers)


def _run_options(parser: argparse.ArgumentParser, max_tokens: int) -> None:
    add = parser.add_argument_group("model and text").add_argument
    add("--max-tokens", type=int, metavar="N", help=f"tokens of planted text, all splits together ({max_tokens})")
    add("--context", type=int, metavar="N", help=f"tokens of a window, BOS included ({CONTEXT}; at most 128)")
    add("--device", metavar="NAME", help="cpu, cuda, ... (cuda if there is one)")
    add("--dtype", choices=["auto", "float32", "bfloat16", "float16"], help="auto: float32")
    add("--seed", type=int, metavar="N", help="seed of every draw but the planting (0)")
    add("--batch-size", type=int, metavar="N", help="windows run together; no result depends on it (8)")


def bench_planted(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    """Descriptions of planted heads, or neurons and latents, against the key."""
    if arguments.planted_units == "features":
        return _bench_features(arguments)
    screen = Screen()
    config, settings, seeds, folder = _prepared(arguments, screen)
    from autointerp.pipeline.bench_planted import bench_seed
    from autointerp.pipeline.bench_report import planted_result
    from autointerp.pipeline.unit_job import JobOptions

    options = JobOptions(settings, "", arguments.retry_failed)
    runs = []
    for seed in seeds:
        screen.note(f"seed {seed}: {folder / f'seed-{seed}'}")
        runs.append(bench_seed(config, seed, folder / f"seed-{seed}", options, screen))
        stopped = runs[-1].result.stopped
        if stopped is not None:
            screen.note(f"autointerp: {stopped}")
            return stopped.exit_code
    screen.close()
    _say(planted_result([head for run in runs for head in run.heads], config.explainer), folder)
    return 1 if any(run.result.failed for run in runs) else 0


def _bench_features(arguments: argparse.Namespace) -> int:
    screen = Screen()
    arguments.units = "neurons"
    arguments.max_tokens = FEATURE_MAX_TOKENS if arguments.max_tokens is None else arguments.max_tokens
    config, settings, seeds, folder = _prepared(arguments, screen)
    from autointerp.pipeline.bench_features import bench_features_seed
    from autointerp.pipeline.bench_features_report import features_result
    from autointerp.pipeline.unit_job import JobOptions

    options = JobOptions(settings, "", arguments.retry_failed)
    runs = []
    for seed in seeds:
        screen.note(f"seed {seed}: {folder / f'seed-{seed}'}")
        runs.append(bench_features_seed(config, seed, folder / f"seed-{seed}", options, screen))
        stopped = runs[-1].stopped
        if stopped is not None:
            screen.note(f"autointerp: {stopped}")
            return stopped.exit_code
    screen.close()
    _say(features_result([unit for run in runs for unit in run.units], config.explainer), folder)
    return 1 if any(run.failed for run in runs) else 0


def bench_controls(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    """Nonsense about planted heads, judged like any description."""
    screen = Screen()
    arguments.scorers = CONTROL_SCORERS if arguments.scorers is None else arguments.scorers
    config, settings, seeds, folder = _prepared(arguments, screen)
    from autointerp.pipeline.bench_controls import controls_of_seed
    from autointerp.pipeline.bench_report import controls_result
    from autointerp.pipeline.unit_job import JobOptions

    options = JobOptions(settings, "", arguments.retry_failed)
    judged = [j for s in seeds for j in controls_of_seed(config, s, folder / f"seed-{s}", options, screen)]
    screen.close()
    _say(controls_result(judged, seeds, config.explainer), folder)
    return 0


def bench_agent(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    """One shot against the loop, paired by unit."""
    screen = Screen()
    neurons = arguments.planted_units == "features"
    if arguments.heads if neurons else arguments.select:
        given, wanted = ("--heads", "--select") if neurons else ("--select", "--heads")
        raise BadInput(f"{given} does not go with --units {arguments.planted_units}. Give {wanted}.")
    most = FEATURE_MAX_TOKENS if neurons else AGENT_MAX_TOKENS
    arguments.units = "neurons" if neurons else ""
    arguments.agent = DEFAULT_AGENT if arguments.agent is None else arguments.agent
    arguments.scorers = AGENT_SCORERS if arguments.scorers is None else arguments.scorers
    arguments.max_tokens = most if arguments.max_tokens is None else arguments.max_tokens
    config, settings, seeds, folder = _prepared(arguments, screen)
    from autointerp.pipeline.bench_agent import bench_agent_seed, heads_ground
    from autointerp.pipeline.bench_agent_features import neurons_ground
    from autointerp.pipeline.bench_agent_report import HEADS, NEURONS, agent_result
    from autointerp.pipeline.unit_job import JobOptions

    options, ground = JobOptions(settings, "", arguments.retry_failed), neurons_ground if neurons else heads_ground
    runs = []
    for seed in seeds:
        runs.append(bench_agent_seed(ground(config, seed), seed, folder / f"seed-{seed}", options, screen))
        if runs[-1].stopped is not None:
            screen.note(f"autointerp: {runs[-1].stopped}")
            return runs[-1].stopped.exit_code
    screen.close()
    units, bench = [unit for run in runs for unit in run.units], NEURONS if neurons else HEADS
    _say(agent_result(units, config.llm, config.agent, bench), folder)
    return 0


def _say(result: BenchResult, folder: Path) -> None:
    result.write(folder)
    for table in result.tables[:-1]:
        say(table.to_markdown())
    say(f"page: {folder / 'bench.html'}")
    say(result.last_line())


def _prepared(arguments: argparse.Namespace, screen: Screen) -> tuple[RunConfig, Settings, list[int], Path]:
    """Options over environment; the explainer decided; seeds read; the folder named."""
    from autointerp.cli.jobs import resolved_run

    arguments.agent = "off" if arguments.agent is None else arguments.agent
    arguments.lenses = "none" if arguments.lenses is None else arguments.lenses
    arguments.max_tokens = MAX_TOKENS if arguments.max_tokens is None else arguments.max_tokens
    arguments.context = CONTEXT if arguments.context is None else arguments.context
    seeds = _seeds(arguments.seeds)
    config, settings = resolved_run(arguments, screen)
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-bench-{arguments.bench}"
    return config, settings, seeds, Path(arguments.out) if arguments.out else Path("runs") / name


def _seeds(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() for part in parts):
        raise BadInput(f"--seeds {text!r} is no list of whole numbers. Write for example 0,1,2.")
    return list(dict.fromkeys(int(part) for part in parts))
