"""What all records are made of: the frozen base, numbers that may be undefined, units, intervals, token values."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict


def _null_is_nan(value: object) -> object:
    return float("nan") if value is None else value


Real = Annotated[float, BeforeValidator(_null_is_nan)]  # NaN is null in JSON, and null reads back as NaN


class Record(BaseModel):
    """Base of all records: frozen, strict about unknown fields, NaN is null in JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Head(Record):
    """One attention head; prints and parses as `L5H1` (`5.1` is accepted)."""

    layer: int
    index: int

    def __str__(self) -> str:
        return f"L{self.layer}H{self.index}"

    def __lt__(self, other: Head) -> bool:
        return (self.layer, self.index) < (other.layer, other.index)

    def __hash__(self) -> int:
        return hash((self.layer, self.index))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `L5H1` or `5.1`; raises ValueError otherwise."""
        match = re.fullmatch(r"\s*(?:[Ll](\d+)[Hh](\d+)|(\d+)\.(\d+))\s*", text)
        if match is None:
            raise ValueError(f"{text!r} is not a head: write L5H1 or 5.1")
        layer, index = (int(part) for part in match.groups() if part is not None)
        return cls(layer=layer, index=index)


class Feature(Record):
    """One MLP neuron or one latent of a sparse autoencoder; prints and parses as `L3N17` or `L3F17`.

    `layer` is that of the place where the unit is read; `index` counts from 0 within it.
    """

    kind: Literal["neuron", "latent"]
    layer: int
    index: int

    def __str__(self) -> str:
        return f"L{self.layer}{_LETTERS[self.kind]}{self.index}"

    def __lt__(self, other: Feature) -> bool:
        return (self.kind, self.layer, self.index) < (other.kind, other.layer, other.index)

    def __hash__(self) -> int:
        return hash((self.kind, self.layer, self.index))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `L3N17` or `L3F17`; raises ValueError otherwise."""
        match = re.fullmatch(r"\s*[Ll](\d+)([NnFf])(\d+)\s*", text)
        if match is None:
            raise ValueError(f"{text!r} is not a unit: write L3N17 for a neuron or L3F17 for a latent")
        kind: Literal["neuron", "latent"] = "neuron" if match[2] in "Nn" else "latent"
        return cls(kind=kind, layer=int(match[1]), index=int(match[3]))


_LETTERS = {"neuron": "N", "latent": "F"}
Unit = Head | Feature
"""Whatever a run describes."""


class Interval(Record):
    """A number with its 95 % interval and the n behind it; NaN where it is undefined."""

    value: Real
    low: Real
    high: Real
    n: int


class TokenValue(Record):
    """A vocabulary token with a signed value in logits."""

    token: str
    value: Real
