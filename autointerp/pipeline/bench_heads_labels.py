"""What the labels of published heads mean for scoring: their classes, the product's names for them, their text.

| published label | pattern class | effect class | named by |
|---|---|---|---|
| prev_token, current_token, first_token, duplicate_token | its own | - | the product's label of that name |
| induction | induction | copy | induction |
| name_mover, backup_name_mover, letter_mover, argument_mover | - | copy | name_mover, copying |
| negative_name_mover, copy_suppression | - | suppress | copy_suppression |
| successor | - | successor | successor |
| s_inhibition | - | indirect | s_inhibition |
| tasks and memberships | - | - | nothing: retrieval only |

The product's own labels may stand in a table too (they are what a user's own heads are called).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from autointerp.records import LABELS

Text = Literal["general", "ioi", "greater_than", "acronyms", "docstrings", "sentiment", "sequences"]
TEXTS: tuple[Text, ...] = ("general", "ioi", "greater_than", "acronyms", "docstrings", "sentiment", "sequences")
Detector = tuple[str, Literal["repeats", "text", "parameters"]]
ON_RANDOM = "_on_random_tokens"  # ends a `not:` label that denies what a detector on random tokens would say

# What a product label says: where the head looks, and what becomes of the attended token.
PATTERNS = frozenset({
    "previous_token", "current_token", "first_token", "duplicate_token", "induction", "fixed_offset", "local_context",
    "punctuation", "delimiter_matching", "token_class",
})  # fmt: skip
EFFECTS = {
    "induction": "copy", "copying": "copy", "name_mover": "copy", "copy_suppression": "suppress",
    "successor": "successor", "s_inhibition": "indirect",
}  # fmt: skip
NO_ANSWER = frozenset({"other", "unclear"})


@dataclass(frozen=True)
class Meaning:
    """What a published label asks for. `accepts` empty: it counts in the retrieval score only."""

    accepts: tuple[str, ...] = ()
    text: Text = "general"
    detectors: tuple[Detector, ...] = ()

    @property
    def patterns(self) -> frozenset[str]:
        return PATTERNS.intersection(self.accepts)

    @property
    def effects(self) -> frozenset[str]:
        return effects_of(self.accepts)


def effects_of(labels: Iterable[str]) -> frozenset[str]:
    """The effect classes that product labels claim."""
    return frozenset(EFFECTS[label] for label in labels if label in EFFECTS)


def _attention(name: str) -> tuple[Detector, ...]:
    return ((name, "repeats"), (name, "text"))


_COPYING: tuple[Detector, ...] = (("copying", "parameters"),)
_SUPPRESSION: tuple[Detector, ...] = (("copy_suppression", "text"), ("anti_copying", "parameters"))
_MOVERS = ("name_mover", "copying")
_DETECTORS: dict[str, tuple[Detector, ...]] = {
    **{name: _attention(name) for name in ("previous_token", "current_token", "duplicate_token", "induction")},
    "first_token": _attention("first_token"),
    "fixed_offset": _attention("fixed_offset"),
    **{name: ((name, "text"),) for name in ("local_context", "punctuation", "delimiter_matching", "token_class")},
    "copying": _COPYING, "name_mover": _COPYING, "copy_suppression": _SUPPRESSION,
    "successor": (("successor", "parameters"),),
}  # fmt: skip
_ACCEPTS: dict[str, tuple[str, ...]] = {"copying": _MOVERS, "name_mover": _MOVERS}
_OWN = {
    label: Meaning(_ACCEPTS.get(label, (label,)), "general", _DETECTORS.get(label, ()))
    for label in LABELS
    if label not in NO_ANSWER
}
MEANINGS: dict[str, Meaning] = {
    **_OWN,
    "prev_token": Meaning(("previous_token",), "general", _DETECTORS["previous_token"]),
    "s_inhibition": Meaning(("s_inhibition",), "ioi"),
    "name_mover": Meaning(_MOVERS, "ioi", _COPYING),
    "backup_name_mover": Meaning(_MOVERS, "ioi", _COPYING),
    "negative_name_mover": Meaning(("copy_suppression",), "ioi", _SUPPRESSION),
    "letter_mover": Meaning(_MOVERS, "acronyms", _COPYING),
    "argument_mover": Meaning(_MOVERS, "docstrings", _COPYING),
    "year_mover": Meaning(text="greater_than"),
    "greater_than_input": Meaning(text="greater_than"),
    "sequence_continuation": Meaning(text="sequences"),
    "acronym_circuit": Meaning(text="acronyms"),
    "docstring_circuit": Meaning(text="docstrings"),
    "sentiment_direct": Meaning(text="sentiment"),
    "sentiment_intermediate": Meaning(text="sentiment"),
}
# `not:` labels that a detector on random tokens must not show; what they deny is a product label.
DENIED_ON_RANDOM = {"duplicate" + ON_RANDOM: "duplicate_token", "induction" + ON_RANDOM: "induction"}
