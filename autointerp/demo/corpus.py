"""The embedded demo corpus: an endless, seeded stream of original generated documents.

1. A document draws its kind (`KIND_WEIGHTS`) and writes it with a generator of its own,
   `Random(f"{stream}:{index}")`, so that document n of a seed is the same on every machine.
2. Entities are found in the finished text: every mention is two capitalised words of a fixed list.
3. `held_out_texts` is a stream of its own, disjoint from every `documents(seed)`.

Pairs and objects kept for tests (`autointerp.demo.pairs.is_reserved`) occur in neither stream.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count

from autointerp.demo.genres import PROSE
from autointerp.demo.grammar import Scene
from autointerp.demo.ledgers import LEDGERS
from autointerp.demo.pairs import IoiPrompt, ioi_prompts
from autointerp.demo.people import BY_MENTION

__all__ = [
    "KIND_WEIGHTS",
    "DemoDocument",
    "EntitySpan",
    "IoiPrompt",
    "documents",
    "held_out_texts",
    "ioi_prompts",
]

_WRITERS: dict[str, tuple[int, Callable[[Scene], str]]] = {**PROSE, **LEDGERS}
KIND_WEIGHTS: dict[str, int] = {kind: weight for kind, (weight, _) in _WRITERS.items()}
"""Kind -> relative frequency among documents."""

_MENTION = re.compile(r"\b(?=([A-Z][a-z]+ [A-Z][a-z]+)\b)")


@dataclass(frozen=True, slots=True)
class EntitySpan:
    """`text[start:stop] == mention`; `entity_id` is a key of `autointerp.demo.people.ENTITIES`."""

    start: int
    stop: int
    mention: str
    entity_id: str


@dataclass(frozen=True, slots=True)
class DemoDocument:
    """One generated text with its kind and the spans of its fictional entities, in order."""

    text: str
    kind: str
    entities: tuple[EntitySpan, ...]


def documents(seed: int) -> Iterator[DemoDocument]:
    """Endless documents of a training seed; two seeds share none but by chance."""
    return _stream(f"train:{seed}")


def held_out_texts() -> Iterator[DemoDocument]:
    """Endless documents of the same kinds that no training seed produces: the stream of `--corpus demo`."""
    return _stream("held-out")


def _stream(name: str) -> Iterator[DemoDocument]:
    kinds = list(KIND_WEIGHTS)
    weights = list(KIND_WEIGHTS.values())
    for index in count():
        rng = random.Random(f"{name}:{index}")
        kind = rng.choices(kinds, weights)[0]
        text = _WRITERS[kind][1](Scene(rng))
        yield DemoDocument(text, kind, entity_spans(text))


def entity_spans(text: str) -> tuple[EntitySpan, ...]:
    """Every mention of a fictional entity in the text, with character offsets."""
    return tuple(
        EntitySpan(match.start(), match.start() + len(match[1]), match[1], BY_MENTION[match[1]].entity_id)
        for match in _MENTION.finditer(text)
        if match[1] in BY_MENTION
    )
