"""A unit's transcript on its card: as JSON for the page, and as lines for the terminal."""

from __future__ import annotations

import json
from typing import Any

from autointerp.records import Experiment, Hypothesis, Transcript, Turn
from autointerp.tokentext import visible

ARGUMENTS, NUMBERS = 300, 1_500  # characters
SHOWN = ("value", "low", "high", "chance", "coverage")
Json = dict[str, Any]


def timeline(transcript: Transcript | None) -> Json | None:
    """What the card shows of a transcript; None where there is none."""
    if transcript is None:
        return None
    prompt, completion = transcript.tokens
    return {
        "k": transcript.k,
        "rounds": transcript.rounds,
        "stop": transcript.stop,
        "chosen": transcript.chosen,
        "tokens": [prompt, completion],
        "one_shot": None if transcript.one_shot is None else transcript.one_shot.summary,
        "turns": [_turn(turn) for turn in transcript.turns],
    }


def _turn(turn: Turn) -> Json:
    return {
        "step": turn.step.replace("_", " "),
        "round": turn.round,
        "thought": turn.thought,
        "failure": turn.failure,
        "note": turn.note,
        "abstained": turn.abstained,
        "tokens": [turn.prompt_tokens, turn.completion_tokens],
        "hypotheses": [_hypothesis(name, one) for name, one in turn.named],
        "experiments": [_experiment(one) for one in turn.experiments],
    }


def _hypothesis(name: str, hypothesis: Hypothesis) -> list[Any]:
    said = hypothesis.description
    numbers = [hypothesis.select.get(key) for key in SHOWN]
    pairs = (("raises", said.raises), ("lowers", said.lowers))
    moves = [[verb, [visible(token) for token in tokens]] for verb, tokens in pairs if tokens]
    return [name, said.label, said.looks_at, said.predicate or "", hypothesis.standing, hypothesis.why, numbers, moves]


def _experiment(experiment: Experiment) -> list[Any]:
    state = "refused" if experiment.error else "asked again" if experiment.repeated else ""
    answer = experiment.error or _cut(json.dumps(experiment.numbers, ensure_ascii=False), NUMBERS)
    return [experiment.tool, _cut(json.dumps(experiment.arguments, ensure_ascii=False), ARGUMENTS), state, answer]


def _cut(text: str, most: int) -> str:
    whole = text.encode("utf-8", "replace").decode("utf-8")  # a reply can hold half characters
    return whole if len(whole) <= most else whole[: most - 1] + "…"


def timeline_lines(transcript: Transcript | None) -> list[tuple[str, str]]:
    """Name and text of each line of the terminal card."""
    if transcript is None:
        return []
    prompt, completion = transcript.tokens
    lines = [("agent", f"{transcript.rounds} rounds, kept: {transcript.chosen}; {transcript.stop}; "
              f"{prompt:,} tokens in, {completion:,} out")]  # fmt: skip
    if transcript.chosen != "one shot" and transcript.one_shot is not None:
        lines.append(("one shot", transcript.one_shot.summary))
    return lines + [("turn", _line(turn)) for turn in transcript.turns]


def _line(turn: Turn) -> str:
    where = f"round {turn.round}, {turn.step}" if turn.round else turn.step.replace("_", " ")
    if turn.failure:
        return f"{where}: failed ({turn.failure})"
    parts = [f"{name}: {h.description.predicate or h.description.label} ({h.why})" for name, h in turn.named]
    parts += [turn.note] if turn.note else []
    parts += [f"{e.tool} {e.error or ('again' if e.repeated else 'answered')}" for e in turn.experiments]
    return f"{where}: " + "; ".join([*parts, *(["abstains"] if turn.abstained else [])] or ["nothing"])
