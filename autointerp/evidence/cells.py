"""The best cells of a stream under "one a document" and "few a token pair", exactly and in bounded memory.

The answer is that of a greedy walk down the ranking: a cell is taken unless its document has one already or
its (destination token, source token) pair has two. What can never be taken is dropped on the way:

1. In a document only the best cell of each pair counts, and only of its best n // 2 + 1 pairs: before the end
   fewer than n cells are taken, so at most n // 2 pairs are full.
2. Of a pair only its best n cells (of n documents) count: fewer than n documents are taken before the end.
3. Of what is left only the best n * (n // 2 + 1) + n * n // 2 + 1 cells count: taken and blocked ones before
   the end are fewer.

Each rule holds for the whole stream as soon as it holds for what was seen, so that the answer does not depend
on the order. It does not look at near-duplicates: a document is what the caller says it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter

import torch
from jaxtyping import Float
from torch import Tensor

from autointerp.evidence.windows import Window

PER_PAIR = 2  # cells with the same destination and source token in one table


@dataclass(frozen=True, eq=False)
class Row:
    """What cells of one destination share; `attn` is the head's attention to positions 0 to `dst`."""

    window: Window
    dst: int
    attn: Float[Tensor, " src"]
    sink_mass: float
    n_allowed: int


@dataclass(frozen=True, eq=False)
class Cell:
    """A (destination, source) pair with its quantities; the least `order` is the best."""

    order: tuple[float, str, int, int, int]  # key, document, window, dst, src
    pair: tuple[int, int]  # token ids of dst and src
    row: Row
    src: int
    values: dict[str, float] = field(repr=False)

    @property
    def document(self) -> str:
        return self.order[1]


class Best:
    """Takes cells in any order and gives the best `n`.

    `dedupe` off leaves out both rules, `per_pair` None the rule on token pairs.
    """

    def __init__(self, n: int, *, dedupe: bool = True, per_pair: int | None = PER_PAIR) -> None:
        self.n, self._dedupe = n, dedupe
        self._cap = per_pair if dedupe else None
        self._pairs_a_document = 1 if self._cap is None else n // self._cap + 1
        self._room = n * self._pairs_a_document + n * n // 2 + 1 if dedupe else n
        self._cells: list[Cell] = []
        self._worst: tuple[float, str, int, int, int] | None = None

    @property
    def per_window(self) -> int:
        """How many cells of one window can count; with `dedupe`, cells of distinct pairs."""
        return self._pairs_a_document if self._dedupe else self.n

    @property
    def distinct_pairs(self) -> bool:
        """Whether only the best cell of each pair of a window can count."""
        return self._dedupe

    def could_enter(self, order: tuple[float, str, int, int, int]) -> bool:
        """Whether a cell of this order, or a worse one, may still count."""
        return self._worst is None or order < self._worst

    def offer(self, cells: Iterable[Cell]) -> None:
        """Take in cells; drops what cannot count any more."""
        self._cells.extend(cells)
        if len(self._cells) > 2 * self._room + 256:
            self._compact()

    def _compact(self) -> None:
        self._cells.sort(key=attrgetter("order"))
        self._cells = list(self._relevant())[: self._room] if self._dedupe else self._cells[: self._room]
        if len(self._cells) == self._room:
            self._worst = self._cells[-1].order

    def _relevant(self) -> Iterator[Cell]:
        seen: set[tuple[str, tuple[int, int]]] = set()
        in_document: Counter[str] = Counter()
        of_pair: Counter[tuple[int, int]] = Counter()
        for cell in self._cells:
            key = cell.document, cell.pair
            if key in seen or in_document[cell.document] >= self._pairs_a_document:
                continue
            seen.add(key)
            in_document[cell.document] += 1
            of_pair[cell.pair] += 1
            if self._cap is None or of_pair[cell.pair] <= self.n:
                yield cell

    def result(self) -> list[Cell]:
        """The best cells, best first; fewer than `n` where no more may stand together."""
        self._compact()
        if not self._dedupe:
            return self._cells[: self.n]
        chosen: list[Cell] = []
        documents: set[str] = set()
        of_pair: Counter[tuple[int, int]] = Counter()
        for cell in self._cells:
            full = self._cap is not None and of_pair[cell.pair] >= self._cap
            if len(chosen) < self.n and cell.document not in documents and not full:
                chosen.append(cell)
                documents.add(cell.document)
                of_pair[cell.pair] += 1
        return chosen


def round_keys(keys: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Keys to 20 binary digits, so that noise of float32 sums ranks no pair above its equal."""
    mantissa, exponent = torch.frexp(keys.double())
    return torch.ldexp((mantissa * 2**20).round() / 2**20, exponent)
