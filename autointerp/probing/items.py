"""Probe items: a text, the token to read, a label, the nuisance factors; what is refused, and where tokens stand.

`check_items` needs no model. `place_items` tokenises and finds the position of each item, before any forward. A probe
text here is one with a known answer; the classifier is always called a linear probe.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from autointerp.errors import BadInput
from autointerp.finder import TokenFinder, TokenSpan
from autointerp.needle import occurrences
from autointerp.probing.splits import Groups, check_split
from autointerp.records import Head

if TYPE_CHECKING:
    from autointerp.model import LanguageModel

Position = int | str | tuple[int, int] | TokenSpan
"""A token position as fed, a string (its first place), a half-open character range, or a span of the finder."""


@dataclass(frozen=True)
class ProbeItem:
    """One probe text. `groups` names every factor that a split may hold out; at least one is needed.

    `ablate`: heads whose z is taken out in this text; `cut`: (from, to) token positions as fed, between which no
    attention flows. `correct` and `incorrect` are continuations of the whole text, a token each (causal check).
    """

    text: str
    position: Position
    label: str
    groups: Mapping[str, str]
    ablate: tuple[Head, ...] = ()
    cut: tuple[tuple[int, int], ...] = ()
    last: bool = False  # a string stands for its last place
    correct: str | None = None
    incorrect: str | None = None


def check_items(items: Sequence[ProbeItem], split: str | None = None) -> None:
    """All that can be refused without a model: labels, groups, spans, cuts. Raises BadInput."""
    if not items:
        raise BadInput("the probe dataset has no items. Give at least two classes of two items.")
    for number, item in enumerate(items, 1):
        _check_one(item, number)
    counts = Counter(item.label for item in items)
    if len(counts) < 2:
        raise BadInput(f"all {len(items)} items have the label {items[0].label!r}; a probe needs two classes or more.")
    rare = sorted(label for label, count in counts.items() if count < 2)
    if rare:
        raise BadInput(
            f"class {rare[0]!r} has 1 item ({len(rare)} classes have); give each class two or more, or drop it."
        )
    names = group_names(items)
    if not names:
        raise BadInput("no group is named in all items; give each the same groups, such as template or document.")
    if split is not None:
        check_split(groups_of(items), [item.label for item in items], split)


def _check_one(item: ProbeItem, number: int) -> None:
    where = f"item {number} ({item.text[:40]!r})"
    if not isinstance(item.text, str) or not item.text:
        raise BadInput(f"item {number} has no text. Give each item one.")
    if not isinstance(item.label, str) or not item.label:
        raise BadInput(f"{where} has no label. Label every item, with a string.")
    if not item.groups:
        raise BadInput(f"{where} has no group. Name what a split may hold out: template, lexeme, document, ...")
    _check_position(item, where)
    for source, destination in item.cut:
        if source > destination or source < 0:
            raise BadInput(
                f"{where}: no attention flows from {source} to {destination}, which is earlier. Exchange them."
            )


def _check_position(item: ProbeItem, where: str) -> None:
    position = item.position
    if isinstance(position, str):
        bare = position.strip(" ") or position
        if not position or not any(True for _ in occurrences(item.text, bare, case=True)):
            raise BadInput(f"{where}: the span {position!r} is not in the text. Correct it, or the text.")
    elif isinstance(position, tuple):
        start, stop = position
        if not 0 <= start < stop <= len(item.text):
            raise BadInput(
                f"{where}: characters {start} to {stop} are no span of {len(item.text)}. Give 0 <= start < stop."
            )
    elif isinstance(position, int) and position < 0:
        raise BadInput(f"{where}: position {position} is negative. Count tokens as fed, from 0.")


def group_names(items: Sequence[ProbeItem]) -> tuple[str, ...]:
    """Factors that every item names."""
    shared = set(items[0].groups)
    for item in items:
        shared &= set(item.groups)
    return tuple(sorted(shared))


def groups_of(items: Sequence[ProbeItem]) -> dict[str, list[str]]:
    """The value of each shared factor, an item."""
    return {name: [str(item.groups[name]) for item in items] for name in group_names(items)}


@dataclass(frozen=True, eq=False)
class PlacedItem:
    """An item as fed: `ids` with BOS where the model's rule says so, one position to read, ablations as applied."""

    id: str
    item: ProbeItem
    ids: Int[np.ndarray, " pos"]
    position: int
    token: str
    ablate: tuple[Head, ...]
    cut: tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class ProbeSet:
    """Placed items, all checked."""

    items: tuple[PlacedItem, ...]
    groups: Groups = field(repr=False)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def labels(self) -> list[str]:
        return [placed.item.label for placed in self.items]

    @property
    def positions(self) -> Int[np.ndarray, " item"]:
        return np.array([placed.position for placed in self.items], dtype=np.int64)


@dataclass(frozen=True)
class Interventions:
    """What is done to every text, beside what its item asks for; the two are united."""

    ablate: tuple[Head, ...] = ()
    cut: tuple[tuple[int, int], ...] = ()


def place_items(model: LanguageModel, items: Sequence[ProbeItem], everywhere: Interventions | None = None) -> ProbeSet:
    """Tokenise and find each position; no forward. Raises BadInput for what cannot be read."""
    everywhere = everywhere or Interventions()
    special = set(model.special_ids)
    placed = [_place(model, item, number, everywhere, special) for number, item in enumerate(items, 1)]
    counts = Counter(one.id for one in placed)
    twice = next((one for one in placed if counts[one.id] > 1), None)
    if twice is not None:
        raise BadInput(f"the item {twice.item.text[:60]!r} stands {counts[twice.id]} times with the label "
                       f"{twice.item.label!r}: copies would be on both sides of a split. Keep one.")  # fmt: skip
    return ProbeSet(tuple(placed), groups_of(items))


def _place(
    model: LanguageModel, item: ProbeItem, number: int, everywhere: Interventions, special: set[int]
) -> PlacedItem:
    where = f"item {number} ({item.text[:40]!r})"
    finder = TokenFinder(item.text, *model.encode(item.text), bos_id=model.bos_id)
    if len(finder) > model.n_ctx:
        raise BadInput(f"{where} has {len(finder)} tokens, more than the model's context of {model.n_ctx}. Shorten it.")
    try:
        position = position_in(finder, item)
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from None
    ids = np.asarray(finder.ids, dtype=np.int32)
    if int(ids[position]) in special:
        raise BadInput(f"{where}: position {position} is the special token {model.strings[int(ids[position])]!r}. "
                       "Read a token of the text.")  # fmt: skip
    ablate = tuple(sorted({*everywhere.ablate, *item.ablate}))
    for head in ablate:
        check_head(model, head)
    cut = tuple(sorted({*everywhere.cut, *item.cut}))
    _check_cut(cut, len(ids), where)
    return PlacedItem(_item_id(ids, position, item.label), item, ids, position, model.strings[int(ids[position])],
                      ablate, cut)  # fmt: skip


def check_head(model: LanguageModel, head: Head) -> None:
    """Raise BadInput for a head that the model does not have."""
    if not (0 <= head.layer < model.n_layers and 0 <= head.index < model.n_heads):
        raise BadInput(
            f"{head} is no head of the model, which has layers 0 to {model.n_layers - 1} with heads 0 to "
            f"{model.n_heads - 1}. Name one of those."
        )


def position_in(finder: TokenFinder, item: ProbeItem) -> int:
    """The one token that the item reads. Raises BadInput for none and for several."""
    position = item.position
    if isinstance(position, TokenSpan):
        finder.check_own(position)
        return position.index
    if isinstance(position, str):
        return (finder.find_last if item.last else finder.find_first)(position).index
    if isinstance(position, tuple):
        start, stop = position
        found = [s for s in finder.find_all(item.text[start:stop]) if s.char_stop == stop and s.char_start <= start]
        if not found:
            raise BadInput(f"characters {start} to {stop} ({item.text[start:stop]!r}) are not whole tokens.")
        return found[0].index
    if not 0 <= position < len(finder):
        raise BadInput(f"position {position} is beyond its {len(finder)} tokens.")
    return position


def _check_cut(cut: Sequence[tuple[int, int]], size: int, where: str) -> None:
    sources: dict[int, set[int]] = {}
    for source, destination in cut:
        if source > destination or source < 0 or destination >= size:
            raise BadInput(f"{where}: the cut from {source} to {destination} does not fit its {size} tokens. Give "
                           "0 <= from <= to.")  # fmt: skip
        sources.setdefault(destination, set()).add(source)
    for destination, cut_off in sources.items():
        if len(cut_off) == destination + 1:
            raise BadInput(f"{where}: the cuts leave position {destination} no source at all. Leave it one.")


def _item_id(ids: Int[np.ndarray, " pos"], position: int, label: str) -> str:
    digest = hashlib.sha256(np.asarray(ids, dtype="<i4").tobytes())
    digest.update(f"\0{position}\0{label}".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
