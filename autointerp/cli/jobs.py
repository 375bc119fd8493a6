"""What all commands that describe units share: their config, their folder, what they say at the end."""

from __future__ import annotations

import argparse
import shlex
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from autointerp.cli.options import resolve
from autointerp.cli.screen import Screen, say
from autointerp.config import DEFAULT_AGENT, RunConfig, Settings, read_environment
from autointerp.errors import AutointerpError, BadInput

if TYPE_CHECKING:
    from autointerp.pipeline.plan import Estimate
    from autointerp.prompting import Prompt

RUNS = Path("runs")


def resolved_run(arguments: argparse.Namespace, screen: Screen) -> tuple[RunConfig, Settings]:
    """Config and settings of a command that describes heads; says which explainer was chosen, checks the templates."""
    config, settings = resolved(arguments)
    check_prompts(config)
    if arguments.explainer in (None, "auto"):
        screen.note(_chosen(config))
    silence()
    return config, settings


def resolved(arguments: argparse.Namespace, *, keep_server: bool = False) -> tuple[RunConfig, Settings]:
    """Options over environment, `auto` decided. The config is saved, so its address holds no password; without
    `keep_server` it names no server where none explains."""
    from autointerp.llm.faults import shown_url

    config, settings = resolve(arguments, read_environment())
    try:
        config = config.model_copy(update={"base_url": config.base_url and shown_url(config.base_url.strip())})
    except ValueError as error:
        raise BadInput(f"--base-url {config.base_url!r} is not a web address ({error}). Correct it.") from None
    if config.explainer == "auto":
        server = config.llm or config.base_url or settings.api_key
        config = config.model_copy(update={"explainer": "llm" if server else "detectors"})
    if config.explainer != "llm" and not keep_server:
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


def check_prompts(config: RunConfig) -> None:
    """A broken template must be known before an hour of collecting."""
    from autointerp.prompting import VARIABLES, Templates

    Templates(Path(config.prompts) if config.prompts else None).check(VARIABLES)


def default_folder(config: RunConfig) -> Path:
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in Path(config.model).name or config.model)
    return RUNS / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}"


def silence() -> None:
    """Advice of the libraries would drown our own lines."""
    warnings.filterwarnings("ignore")


def say_estimate(estimate: Estimate) -> None:
    say(f"{'purpose':<29} {'calls':>8} {'prompt tokens':>14} {'reply tokens':>14}")
    for purpose, calls, prompt, completion in estimate.rows:
        say(f"{purpose:<29} {calls:>8} {prompt:>14} {completion:>14}")
    cost = "unknown" if estimate.usd is None else f"{estimate.usd:.4f} USD"
    say(f"{'total':<29} {estimate.calls:>8}   cost at most {cost} ({estimate.price_source}); repairs not counted")
    if estimate.controls:
        say(f"of these {estimate.controls} are controls; single items are asked only where the order of items matters")
    if estimate.note:
        say(estimate.note)


def say_prompt(prompt: Prompt, notes: Sequence[str]) -> None:
    """Every message as it would be sent, and what was left out of it."""
    for message in prompt.messages:
        say(f"=== {message['role']} ===\n{message['content']}")
    for note in notes:
        Screen().note(note)


def shown_command(words: Sequence[str], config: RunConfig, settings: Settings) -> str:
    """The command line as a run keeps it: its address without a password."""
    shown = [word.replace(settings.base_url, config.base_url) if settings.base_url else word for word in words]
    return shlex.join(["autointerp", *shown])


class Ended(Protocol):
    """What every job gives back."""

    @property
    def stopped(self) -> AutointerpError | None: ...
    @property
    def failed(self) -> Sequence[object]: ...


def exit_code(result: Ended) -> int:
    """0 done, 1 done but some units failed, or that of what stopped the run."""
    if result.stopped is not None:
        Screen().note(f"autointerp: {result.stopped}")
        return result.stopped.exit_code
    return 1 if result.failed else 0
