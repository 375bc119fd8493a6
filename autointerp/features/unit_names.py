"""How units are named on the command line: what can be said of a specification without the model.

`neurons`, `neurons:L3`, `neurons:L3N17`, `neurons:L3N10-L3N200`, `neurons:L0-L2`, and lists with commas;
`sae:FOLDER`, `sae:FILE.safetensors`, `sae:hf:REPO[:SUBFOLDER]`, `sae:demo`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from autointerp.errors import BadInput

UnitKind = Literal["neuron", "latent"]
_FORMS = "neurons, neurons:L3, neurons:L3N10-L3N200, sae:FOLDER, sae:FILE.safetensors, sae:hf:REPO, sae:demo"
_LETTERS: dict[UnitKind, str] = {"neuron": "N", "latent": "F"}


@dataclass(frozen=True)
class Span:
    """Units from `first` to `last`, (layer, index); a `last` without an index is the end of its layer."""

    first: tuple[int, int]
    last: tuple[int, int | None]
    text: str


@dataclass(frozen=True)
class UnitSpec:
    """A specification taken apart. `source`: the autoencoder; `spans`: of neurons, None for all."""

    kind: UnitKind
    source: str = ""
    spans: tuple[Span, ...] | None = None


def unit_spec(spec: str) -> UnitSpec:
    """Raises BadInput for a specification that is none, whatever the model."""
    kind, colon, rest = (part.strip() for part in spec.strip().partition(":"))
    if kind == "neurons":
        if colon and not rest:
            raise BadInput(f"--units {spec!r} names no neuron. Write neurons, neurons:L3 or neurons:L3N17.")
        return UnitSpec("neuron", spans=named_spans(rest, "neuron") if rest else None)
    if kind == "sae" and rest:
        return UnitSpec("latent", source=rest)
    raise BadInput(f"--units {spec!r} is unknown. Write one of: {_FORMS}.")


def check_names(units: str, select: str) -> None:
    """Raises BadInput where --units or --select is not written as it has to be."""
    kind = unit_spec(units).kind
    if select:
        named_spans(select, kind)


def named_spans(text: str, kind: UnitKind) -> tuple[Span, ...]:
    """A list of single units, whole layers and ranges. Raises BadInput for what is none of these."""
    return tuple(_span(part, kind) for part in text.split(","))


def _span(part: str, kind: UnitKind) -> Span:
    one, other = _example(kind), _example(kind, 40)
    ends = [_end(end, kind) for end in part.split("-")]
    if None in ends:
        raise BadInput(f"{part.strip()!r} names no {kind}. Write {one}, a range {one}-{other}, or a layer L3.")
    if len(ends) > 2:
        raise BadInput(f"{part.strip()!r} is no range. Write one like {one}-{other}.")
    (layer, index), (last_layer, last_index) = (end for end in (ends[0], ends[-1]) if end is not None)
    first = layer, index or 0
    if (last_layer, float("inf") if last_index is None else last_index) < first:
        raise BadInput(f"{part.strip()!r} runs from a higher to a lower unit. Write the lower one first.")
    return Span(first, (last_layer, last_index), part.strip())


def _end(text: str, kind: UnitKind) -> tuple[int, int | None] | None:
    """(layer, index or None for the whole layer) of one end of a range; None where it is no unit of the kind."""
    letter = _LETTERS[kind]
    match = re.fullmatch(rf"\s*[Ll](\d+)(?:[{letter}{letter.lower()}](\d+))?\s*", text)
    return None if match is None else (int(match[1]), int(match[2]) if match[2] is not None else None)


def _example(kind: UnitKind, index: int = 17) -> str:
    return f"L3{_LETTERS[kind]}{index}"
