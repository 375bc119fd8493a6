"""Cards within a page of bounded size.

1. Cards that are small together stand as JSON. 2. Else each island is deflated and base64-coded; an island may hold
several cards, which share their words. 3. Where that would still be too large, cards are cut tier by tier: fewer
examples of a stratum, then no prompts. The jsonl of the run keeps all.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]
Tier = tuple[int, bool]  # examples of a stratum, and whether prompts are kept


@dataclass(frozen=True)
class PackedCard:
    """The card of one unit as an island's text, deflated; `size`: of the text."""

    unit: str
    packed: bytes
    size: int

    @classmethod
    def of(cls, unit: str, text: str) -> PackedCard:
        return cls(unit, zlib.compress(text.encode(), 6), len(text))

    @property
    def text(self) -> str:
        return zlib.decompress(self.packed).decode()


@dataclass(frozen=True)
class Cards:
    """Islands by name, whether they are deflated, the tier of cutting that was needed, and cards left out."""

    islands: list[tuple[str, str]]
    packed: bool
    tier: Tier | None
    left_out: int = 0


@dataclass(frozen=True)
class Packing:
    """How cards are packed: `plain` and `room` in bytes, `group` cards in an island (1: the card alone, by its unit;
    more: an object by unit, named by its number), `cut` makes a card of a tier as text."""

    plain: int
    room: int
    tiers: Sequence[Tier]
    cut: Callable[[Json, Tier], str]
    group: int = 1

    def pack(self, cards: Sequence[PackedCard]) -> Cards:
        """All cards, at the first tier that fits; at the last one, the first cards that do."""
        if sum(card.size for card in cards) <= self.plain:
            return Cards([(name, text) for name, text in self._texts(cards, None)], packed=False, tier=None)
        for tier in (None, *self.tiers):
            if tier is not self.tiers[-1] and self._estimate(cards, tier) > self.room:
                continue  # a sample says that it will not fit; saves packing every card
            islands = [(name, _deflated(text)) for name, text in self._texts(cards, tier)]
            if sum(len(text) for _, text in islands) <= self.room:
                break
        kept = len(islands) if self.group == 1 else self._fitting(islands)
        return Cards(islands[:kept], packed=True, tier=tier, left_out=max(0, len(cards) - kept * self.group))

    def _fitting(self, islands: Sequence[tuple[str, str]]) -> int:
        total = 0
        for number, (_, text) in enumerate(islands):
            total += len(text)
            if total > self.room:
                return number
        return len(islands)

    def _texts(self, cards: Sequence[PackedCard], tier: Tier | None) -> list[tuple[str, str]]:
        if self.group == 1:
            return [(card.unit, self._text(card, tier)) for card in cards]
        groups = [cards[start : start + self.group] for start in range(0, len(cards), self.group)]
        return [(str(number), self._joined(group, tier)) for number, group in enumerate(groups)]

    def _joined(self, group: Sequence[PackedCard], tier: Tier | None) -> str:
        return "{" + ",".join(f'"{card.unit}":{self._text(card, tier)}' for card in group) + "}"

    def _text(self, card: PackedCard, tier: Tier | None) -> str:
        return card.text if tier is None else self.cut(json.loads(card.text), tier)

    def _estimate(self, cards: Sequence[PackedCard], tier: Tier | None) -> float:
        """Bytes of all islands at a tier, from a sample of them."""
        starts = range(0, len(cards), self.group)
        sample = starts[:: max(1, len(starts) // 24)]
        texts = (self._texts(cards[start : start + self.group], tier) for start in sample)
        return len(starts) / len(sample) * sum(len(_deflated(text)) for found in texts for _, text in found)


def _deflated(text: str) -> str:
    return base64.b64encode(zlib.compress(text.encode(), 6)).decode()
