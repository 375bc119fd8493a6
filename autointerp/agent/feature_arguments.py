"""What an experiment on a neuron or latent may be asked with; texts, places and edits are those of heads."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from autointerp.agent.arguments import (
    PREDICATE_CHARACTERS,
    Arguments,
    Count,
    Filter,
    LabelledItem,
    LabelledItems,
    Places,
    PredicateText,
)

Strength = Literal[1, 2, 4, 8]


class UnitRows(Arguments):
    """Rows of real text under a filter; empty strings filter nothing."""

    kind: Annotated[
        Literal["top", "random", "contrast"],
        Field(description="most active rows; any rows; rows at rest whose token is that of an active row"),
    ]
    n: Count = 3
    token: Annotated[Filter, Field(description="only rows with this token")] = ""
    predicate: Annotated[str, Field(max_length=PREDICATE_CHARACTERS)] = ""
    holds: Annotated[bool, Field(description="whether the predicate names the row")] = True


class ScoreRule(Arguments):
    """A predicate to score on held-out rows."""

    predicate: PredicateText


class DisagreeRules(Arguments):
    """Two predicates to tell apart."""

    first: PredicateText
    second: PredicateText
    n: Count = 3


class Steer(Places):
    """Texts with a marked token each, at which the unit's direction is added."""

    strength: Annotated[Strength, Field(description="times the unit's usual maximum")] = 4


class UnitMeasurements(Arguments):
    """Which of the unit's measurements."""

    data: Literal["all", "rules", "tokens", "output"] = "all"


class Separate(LabelledItems[LabelledItem]):
    """Labelled items, two labels, at least four of each."""
