"""What a loop has found so far, as plain values for the next prompt: blind, and in as much detail as fits.

What was said before is not said again: a claim that holds several others is named, not repeated, an experiment that was
asked for twice is shown once, and of refuted rules and earlier rounds the short numbers are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from autointerp.agent.plain import bounded
from autointerp.explain.view import drop_examples, evidence_view
from autointerp.records import Evidence, Example, Experiment, Hypothesis, Turn

DETAILS = 3  # 3: all of the last round, the rest shortened · 2: scores shortened · 1: all shortened · 0: no lists
FEWEST = 1  # the detail below which a prompt is of little use
SHORT = 600  # characters of shortened numbers
SHORT_TEXT = 160
BRIEF_EXAMPLES, BRIEF_MEASUREMENTS = 10, 4
Plain = dict[str, Any]


def brief_examples(examples: tuple[Example, ...]) -> tuple[Example, ...]:
    """A few of the examples, of each stratum at least two where it has as many."""
    while len(examples) > BRIEF_EXAMPLES:
        examples = drop_examples(examples)
    return examples


def brief_view(evidence: Evidence, examples: tuple[Example, ...]) -> Plain:
    """The evidence for a prompt with experiments: of the measurements those that fire, or else the highest."""
    view = evidence_view(evidence, examples)
    firing = [m for m in view["measurements"] if m["fires"]]
    by_rank = sorted(view["measurements"], key=lambda m: -(m["percentile_among_heads"] or 0))
    return {**view, "measurements": firing or by_rank[:BRIEF_MEASUREMENTS]}


def history_view(turns: Sequence[Turn], detail: int = DETAILS) -> Plain:
    """Hypotheses with their scores and failures, and experiments with their numbers, in the order of the loop."""
    last = max((turn.round for turn in turns), default=0)
    hypotheses: list[Plain] = []
    for turn in turns:
        named = turn.named
        for place, (name, hypothesis) in enumerate(named):
            parts = [part for part, _ in named] if turn.step == "revision" and 0 < place == len(named) - 1 else []
            hypotheses.append({"name": name, **hypothesis_view(hypothesis, detail, parts[:-1])})
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


def hypothesis_view(hypothesis: Hypothesis, detail: int = DETAILS, parts: Sequence[str] = ()) -> Plain:
    """A hypothesis with its score; `parts` are the names of the claims that it holds together."""
    said = hypothesis.description
    words = {"looks_at": said.looks_at, "writes": said.writes, "conditions": said.conditions}
    if detail < DETAILS:
        words = {name: text if len(text) <= SHORT_TEXT else f"{text[:SHORT_TEXT]}…" for name, text in words.items()}
    view: Plain = {
        **({"all_of": list(parts)} if parts else words), "label": said.label, "labels": list(said.labels),
        "predicate": said.predicate or "", "domain": said.domain, "standing": hypothesis.standing,
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
    if detail > 0:
        return bounded(numbers, SHORT)
    return {name: value for name, value in numbers.items() if not isinstance(value, dict | list)}
