"""What an experiment may be asked with: one closed, bounded pydantic model a tool.

Texts are short and few, tokens are strings, and every list has an end, so that no request can cost more than `cost`
says. A `mark` names a destination: `last`, or a token of the text as the model cuts it (a leading space may be left
out) and which of its occurrences is meant.
"""

from __future__ import annotations

from typing import Annotated, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_TEXTS, MAX_CHARACTERS, MAX_TOKENS, MAX_ROWS = 4, 300, 8, 5
MIN_ITEMS, MAX_ITEMS, ITEM_CHARACTERS, N_LABELS = 8, 24, 120, 2
PREDICATE_CHARACTERS = 400
LAST = "last"

Text = Annotated[str, Field(min_length=1, max_length=MAX_CHARACTERS)]
Token = Annotated[str, Field(min_length=1, max_length=40)]
Filter = Annotated[str, Field(max_length=40)]
PredicateText = Annotated[str, Field(min_length=1, max_length=PREDICATE_CHARACTERS)]
Mark = Annotated[
    str,
    Field(
        min_length=1,
        max_length=40,
        description="the destination: `last`, or a token of the text (a leading space may be left out)",
    ),
]
Occurrence = Annotated[int, Field(ge=1, le=50, description="which occurrence of the mark, from 1")]
Count = Annotated[int, Field(ge=1, le=MAX_ROWS)]
Domain = Literal["text", "repeats"]


class Arguments(BaseModel):
    """Base: frozen, no unknown field, no conversion between types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Place(Arguments):
    """A text with one marked destination."""

    text: Text
    mark: Mark = LAST
    occurrence: Occurrence = 1


class Places(Arguments):
    """Texts that the model reads, each with its own destination (`attend`, `ablate`)."""

    texts: Annotated[list[Place], Field(min_length=1, max_length=MAX_TEXTS)]


class Edit(Place):
    """A text and one span of it to replace."""

    replace: Annotated[str, Field(min_length=1, max_length=100, description="a span of the text, its first occurrence")]
    by: Annotated[str, Field(max_length=100, description="what stands there instead")]


class Rows(Arguments):
    """Rows of real text under a filter; empty strings filter nothing."""

    kind: Annotated[
        Literal["top", "random", "contrast"],
        Field(description="most active rows; any rows; rows of the same destination tokens where the head rests"),
    ]
    n: Count = 3
    dst: Annotated[Filter, Field(description="only rows whose destination is this token")] = ""
    src: Annotated[Filter, Field(description="only rows whose most attended source is this token")] = ""
    min_distance: Annotated[int, Field(ge=0, le=100_000, description="of the most attended source")] = 0
    max_distance: Annotated[int, Field(ge=0, le=100_000)] = 100_000
    predicate: Annotated[str, Field(max_length=PREDICATE_CHARACTERS)] = ""
    holds: Annotated[bool, Field(description="whether the predicate names the most attended source")] = True


class ScorePredicate(Arguments):
    """A predicate to score on held-out rows."""

    predicate: PredicateText
    domain: Domain = "text"


class Disagree(Arguments):
    """Two predicates to tell apart."""

    first: PredicateText
    second: PredicateText
    domain: Domain = "text"
    n: Count = 3


class Patch(Arguments):
    """Two texts of as many tokens, and what follows each."""

    clean: Text
    corrupted: Text
    answer: Annotated[Token, Field(description="the token that follows the clean text")]
    wrong: Annotated[Token, Field(description="the token that follows the corrupted text")]
    mark: Annotated[
        str,
        Field(
            min_length=1,
            max_length=40,
            description="where the head's output is exchanged: `last`, `all` positions, or a token of the clean text",
        ),
    ] = LAST
    occurrence: Occurrence = 1


class Lens(Place):
    """A position at which the head's output is read."""

    selfie: Annotated[bool, Field(description="also let the model put it into words, where that is available")] = False


class Ov(Arguments):
    """Tokens of the vocabulary."""

    tokens: Annotated[list[Token], Field(min_length=1, max_length=MAX_TOKENS)]


class Detectors(Arguments):
    """Which of the head's measurements."""

    data: Literal["all", "repeats", "text", "parameters"] = "all"


class LabelledItem(Arguments):
    """A short text with a marked position and its label."""

    text: Annotated[str, Field(min_length=1, max_length=ITEM_CHARACTERS)]
    label: Annotated[str, Field(min_length=1, max_length=20)]
    mark: Mark = LAST
    occurrence: Occurrence = 1


class ProbeItem(LabelledItem):
    """The same, in a group where that matters."""

    group: Annotated[str, Field(max_length=20, description="items of one group are held out together")] = ""


Item = TypeVar("Item", bound=LabelledItem)


class LabelledItems(Arguments, Generic[Item]):
    """Labelled items, two labels, at least four of each."""

    items: Annotated[list[Item], Field(min_length=MIN_ITEMS, max_length=MAX_ITEMS)]

    @model_validator(mode="after")
    def _balanced(self) -> Self:
        counts: dict[str, int] = {}
        for item in self.items:
            counts[item.label] = counts.get(item.label, 0) + 1
        if len(counts) != N_LABELS:
            raise ValueError(f"items have {len(counts)} labels; give exactly {N_LABELS}")
        if min(counts.values()) < MIN_ITEMS // N_LABELS:
            raise ValueError(f"a label has {min(counts.values())} items; give at least {MIN_ITEMS // N_LABELS} of each")
        return self


class Probe(LabelledItems[ProbeItem]):
    """Items for a linear probe."""
