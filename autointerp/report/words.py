"""Lens readings as the compact JSON of a card's rows, and what they cost as facts of the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autointerp.lens_records import EntityVectorReading, HeadRowReading, HeadVectorReading, SelfieReading, StreamReading
from autointerp.records import TokenValue
from autointerp.tokentext import printable, visible

UNREAD = "the detector explainer does not read them, so they cannot have changed a description"
LONGEST = 160  # characters of an answer on the page
Json = dict[str, Any]


def words_json(row: HeadRowReading) -> Json:
    """The readings of one row: vectors in order, then the stream with and without the head."""
    return {
        "vectors": [_vector(vector) for vector in row.vectors],
        "stream": None if row.stream is None else _stream(row.stream),
    }


def _vector(vector: HeadVectorReading) -> Json:
    return {
        "what": vector.what,
        "norm": _short(vector.norm),
        "up": _tokens(vector.up),
        "down": _tokens(vector.down),
        "entity": None if vector.entity is None else _entity(vector.entity),
        "selfie": [_selfie(said) for said in vector.selfie],
    }


def _entity(said: EntityVectorReading) -> Json:
    return {
        "said": _text(said.mention), "likelihood": _short(said.likelihood), "margin": _short(said.margin),
        "p": _short(said.null_p), "verdict": said.verdict,
        "controls": [[c.name, _text(c.mention), _short(c.likelihood)] for c in said.controls],
    }  # fmt: skip


def _stream(said: StreamReading) -> Json:
    return {
        "said": _text(said.stream.mention), "likelihood": _short(said.stream.likelihood), "margin": None,
        "p": _short(said.null_p), "verdict": said.verdict,
        "controls": [["without", _text(said.without.mention), _short(said.without.likelihood)]],
    }  # fmt: skip


def _selfie(said: SelfieReading) -> Json:
    return {
        "prompt": said.prompt, "said": _text(said.text), "total": _short(said.total), "margin": _short(said.margin),
        "p": _short(said.null_p), "verdict": said.verdict,
        "controls": [[c.name, _text(c.text), _short(c.total)] for c in said.controls],
    }  # fmt: skip


def _tokens(values: tuple[TokenValue, ...]) -> list[list[Any]]:
    return [[visible(value.token), _short(value.value)] for value in values]


def _text(text: str) -> str:
    flat = printable(text)
    return flat if len(flat) <= LONGEST else flat[: LONGEST - 1] + "…"


def _short(value: float) -> float | None:
    return None if value != value else float(f"{value:.3g}")


def lens_facts(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the readings took and found, and whether an explainer saw them; nothing in runs older than them."""
    cost = run.get("lenses")
    if not isinstance(cost, Mapping):
        return []
    names = [str(name) for name in cost.get("lenses") or ()]
    if not names:
        return [("used", "none")]
    facts = [("used", ", ".join(names)), ("rows", f"{cost['rows']:,} of {cost['heads']:,} heads")]
    facts.append(("tokens", f"{cost['tokens']:,} through the model, at most {cost['tokens_at_most']:,}"))
    facts.append(("time", f"{cost['seconds']} s"))
    for name, judged in cost.get("judged", {}).items():
        if judged:
            chance = " (5 % by chance)" if name != "selfie" else ""
            facts.append((name, f"{cost['specific'][name]} of {judged} readings beat their controls{chance}"))
    explained = run.get("explainer") == "llm"
    facts.append(("explainer", "is shown those that beat their controls" if explained else UNREAD))
    return facts
