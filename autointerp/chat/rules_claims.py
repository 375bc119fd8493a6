"""What the rule-based chat model knows: rules by label, and what the evidence block of a prompt shows of a head."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Plain = dict[str, Any]
RULES: dict[str, tuple[str, str]] = {
    "previous_token": ("Every token attends to the token directly before it.", "distance == 1"),
    "current_token": ("Every token attends to itself.", "distance == 0"),
    "first_token": ("Every token rests on the first position of the text.", "src.is_first"),
    "duplicate_token": (
        "A token that occurred before attends to its last earlier occurrence.",
        "nearest(src == dst and distance > 0)",
    ),
    "induction": (
        "A token that occurred before attends to the token that followed its last earlier occurrence.",
        "nearest(src.prev == dst and distance > 0)",
    ),
    "punctuation": (
        "Every token attends to the last punctuation sign before it.",
        "nearest(src.is_punctuation and distance > 0)",
    ),
    "delimiter_matching": (
        "Every token attends to the last opening bracket before it.",
        "nearest(src.is_open_bracket and distance > 0)",
    ),
    "local_context": ("Every token spreads its attention over the last tokens.", "1 <= distance <= 4"),
}
BY_WORDS = ("copying", "successor")  # labels for which the words that are attended to are the rule
OUTPUT = ("copying", "copy_suppression", "successor")
FIRES, IDLE_LOGITS, IDLE_LOSS = 4.0, 0.02, 0.01
MIN_PART, MOST_WORDS, MAX_PREDICATE, TEXT_CHARACTERS = 0.02, 20, 400, 280


@dataclass(frozen=True)
class Seen:
    """What the evidence shows: measurements that fire with their lift over an even spread, what is written, whether
    anything depends on it in the examples, and the words that are attended to."""

    lifts: Mapping[str, float]
    own: float
    idle: bool
    words: tuple[str, ...]
    texts: tuple[str, ...]  # of the examples, up to the token that attends

    @classmethod
    def of(cls, evidence: Mapping[str, Any]) -> Seen:
        lifts: dict[str, float] = {}
        for reading in evidence.get("measurements", []):
            if reading.get("fires"):
                name, lift = str(reading["name"]), float(reading.get("times_uniform") or 0.0)
                lifts[name] = max(lift, lifts.get(name, 0.0))
        writes = evidence.get("writes", {})
        raised = [abs(float(token["logits"] or 0)) for token in writes.get("raised", [])]
        examples = [e for stratum in evidence.get("examples", {}).values() for e in stratum]
        losses = [abs(float(e["loss_without_head"])) for e in examples if e.get("loss_without_head") is not None]
        idle = max(raised, default=0.0) < IDLE_LOGITS and bool(losses) and max(losses) < IDLE_LOSS
        totals = evidence.get("statistics", {}).get("top_attended_tokens", [])
        words = [str(t["token"]).strip().lower() for t in totals if float(t.get("part") or 0) >= MIN_PART]
        texts = [f"{e.get('before', '')}{e.get('dst', '')}"[-TEXT_CHARACTERS:] for e in examples]
        own = float(writes.get("effect_on_attended_token_logits") or 0.0)
        return cls(lifts, own, idle, tuple(dict.fromkeys(words)), tuple(t for t in texts if t.strip()))

    def both(self, *labels: str) -> bool:
        """Whether all of these fire."""
        return all(self.lifts.get(label, 0.0) >= FIRES for label in labels)

    @property
    def strongest(self) -> str:
        """The label of the strongest measurement of a pattern; what is written wins over a class of words."""
        named = {label: self.lifts[label] for label in (*RULES, "fixed_offset") if self.lifts.get(label, 0) >= FIRES}
        resting = named.pop("first_token", 0.0)
        if "copy_suppression" in self.lifts and self.own < 0:
            return "copy_suppression"
        if named:
            return max(named, key=lambda label: named[label])
        if "token_class" in self.lifts:
            writes = [label for label in ("successor", "copying") if label in self.lifts]
            return writes[0] if writes and (writes[0] != "copying" or self.own > 1) else "token_class"
        return "first_token" if resting else "unclear"


def claim(kind: str, seen: Seen, *, label: str = "", writes: str = "", offset: int = 0) -> Plain:
    """A claim of a kind, in the form of the loop's replies."""
    looks_at, predicate = RULES.get(kind, ("", ""))
    if kind == "fixed_offset":
        looks_at, predicate = f"Every token attends to the token {offset} positions before it.", f"distance == {offset}"
    if kind in ("token_class", *BY_WORDS):
        looks_at, predicate = _of_words(seen)
    missing = (
        "" if predicate else "it attends to what it is about to say" if kind == "copy_suppression" else "no rule fits"
    )
    return {
        "looks_at": looks_at or "The tokens that are about to be said.",
        "writes": writes or _writes(kind, seen),
        "label": label or kind,
        "predicate": predicate,
        "no_predicate": missing,
        "domain": "text",
        "conditions": "",
        "confidence": 60,
    }


def _of_words(seen: Seen) -> tuple[str, str]:
    words = list(seen.words[:MOST_WORDS])
    while words:
        names = ", ".join(json.dumps(word) for word in words)
        predicate = f"nearest(src.lower in {{{names}}} and distance > 0)"
        if len(predicate) <= MAX_PREDICATE:
            return f"Every token attends to the last of these words before it: {', '.join(words)}.", predicate
        words.pop()
    return "Every token attends to a few set words.", ""


def _writes(kind: str, seen: Seen) -> str:
    if kind == "copy_suppression" or seen.own < -1:
        return "Lowers the attended token as the next token."
    return (
        "Raises the attended token as the next token."
        if seen.own > 1
        else "No consistent effect on the attended token."
    )
