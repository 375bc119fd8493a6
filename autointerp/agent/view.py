"""What a loop has found so far, as plain values for the next prompt: blind, and in as much detail as fits.

What was said before is not said again: a claim that holds several others is named, not repeated, an experiment that was
asked for twice is shown once, and of refuted rules and earlier rounds the short numbers are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from autointerp.agent.claims import ClaimForm
from autointerp.agent.plain import bounded
from autointerp.records import Experiment, Hypothesis, Turn

DETAILS = 3  # 3: all of the last round, the rest shortened · 2: scores shortened · 1: all shortened · 0: no lists
FEWEST = 1  # the detail below which a prompt is of little use
SHORT = 600  # characters of shortened numbers
SHORT_TEXT = 160
Plain = dict[str, Any]


def history_view(turns: Sequence[Turn], form: ClaimForm, detail: int = DETAILS) -> Plain:
    """Hypotheses with their scores and failures, and experiments with their numbers, in the order of the loop."""
    last = max((turn.round for turn in turns), default=0)
    hypotheses: list[Plain] = []
    for turn in turns:
        named = turn.named
        for place, (name, hypothesis) in enumerate(named):
            parts = [part for part, _ in named] if turn.step == "revision" and 0 < place == len(named) - 1 else []
            hypotheses.append({"name": name, **hypothesis_view(hypothesis, form, detail, parts[:-1])})
    experiments = [
        {"round": turn.round, **_experiment(e, detail, newest=turn.round == last)}
        for turn in turns
        for e in turn.experiments
        if not e.repeated
    ]
    return {
        "hypotheses": hypotheses,
        "experiments": experiments,
        "asked_again": [e.tool for turn in turns for e in turn.experiments if e.repeated],
        "failed_steps": [turn.failure[:200] for turn in turns if turn.failure],
    }


def hypothesis_view(hypothesis: Hypothesis, form: ClaimForm, detail: int = DETAILS, parts: Sequence[str] = ()) -> Plain:
    """A hypothesis with its score; `parts` are the names of the claims that it holds together."""
    said = hypothesis.description
    words = form.words(said)
    if detail < DETAILS:
        words = {name: text if len(text) <= SHORT_TEXT else f"{text[:SHORT_TEXT]}…" for name, text in words.items()}
    view: Plain = {
        **({"all_of": list(parts)} if parts else words), "label": said.label, "labels": list(said.labels),
        "predicate": said.predicate or "", **form.shown(said), "standing": hypothesis.standing,
        "why": hypothesis.why,
    }  # fmt: skip
    if hypothesis.no_predicate:
        view["no_predicate"] = hypothesis.no_predicate
    if hypothesis.select:
        whole = detail >= DETAILS and hypothesis.standing != "refuted"
        view["on_held_out_text"] = hypothesis.select if whole else _short(hypothesis.select, detail)
    return view


def _experiment(experiment: Experiment, detail: int, *, newest: bool) -> Plain:
    view: Plain = {"tool": experiment.tool, "arguments": experiment.arguments}
    if experiment.error:
        return view | {"refused": experiment.error}
    if newest and detail >= DETAILS - 1:
        return view | {"answer": experiment.numbers}
    return view | {"answer": _short(experiment.numbers, detail if newest else detail - 1)}


def _short(numbers: Plain, detail: int) -> Plain:
    if detail > 0:  # counts of failures say more than one sample of them
        return bounded({name: _without_samples(value) for name, value in numbers.items()}, SHORT)
    return {name: value for name, value in numbers.items() if not isinstance(value, dict | list)}


def _without_samples(value: object) -> object:
    return {k: v for k, v in value.items() if k != "samples"} if isinstance(value, dict) else value
