"""What a loop has found so far, as plain values for the next prompt: blind, and in as much detail as fits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from autointerp.agent.plain import bounded
from autointerp.records import Experiment, Hypothesis, Turn

DETAILS = 3  # 3: everything · 2: numbers of the last round only · 1: of the last round, shortened · 0: no numbers
SHORT = 600  # characters of shortened numbers
Plain = dict[str, Any]


def history_view(turns: Sequence[Turn], detail: int = DETAILS) -> Plain:
    """Hypotheses with their scores and failures, and experiments with their numbers, in the order of the loop."""
    last = max((turn.round for turn in turns), default=0)
    hypotheses = [
        {"name": name, **hypothesis_view(hypothesis, detail)} for turn in turns for name, hypothesis in turn.named
    ]
    experiments = [
        {"round": turn.round, **_experiment(e, detail, newest=turn.round == last)}
        for turn in turns
        for e in turn.experiments
    ]
    return {
        "hypotheses": hypotheses,
        "experiments": experiments,
        "failed_steps": [turn.failure[:200] for turn in turns if turn.failure],
    }


def hypothesis_view(hypothesis: Hypothesis, detail: int = DETAILS) -> Plain:
    """A hypothesis with its score."""
    said = hypothesis.description
    view: Plain = {
        "looks_at": said.looks_at, "writes": said.writes, "label": said.label, "labels": list(said.labels),
        "predicate": said.predicate or "", "domain": said.domain, "conditions": said.conditions,
        "standing": hypothesis.standing, "why": hypothesis.why,
    }  # fmt: skip
    if hypothesis.no_predicate:
        view["no_predicate"] = hypothesis.no_predicate
    if hypothesis.select:
        view["on_held_out_text"] = _numbers(hypothesis.select, detail, newest=True)
    return view


def _experiment(experiment: Experiment, detail: int, *, newest: bool) -> Plain:
    view: Plain = {"tool": experiment.tool, "arguments": experiment.arguments}
    if experiment.error:
        return view | {"refused": experiment.error}
    return view | {"answer": _numbers(experiment.numbers, detail, newest=newest)}


def _numbers(numbers: Plain, detail: int, *, newest: bool) -> Any:
    if detail >= DETAILS or (detail == DETAILS - 1 and newest):
        return numbers
    if detail == 0 or not newest:
        return {name: value for name, value in numbers.items() if not isinstance(value, dict | list)}
    return bounded(numbers, SHORT)
