"""The explain rows on which rules are learned and measured, with what a predicate may say of each, in arrays.

All rows of the split, or those of the documents with the smallest seeded hashes up to `MAX_ROWS`. Half of the documents
(near-duplicates together, in the order of seeded hashes) are there to measure what was learned on the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int

from autointerp.evidence.collect import ExplainWindows
from autointerp.evidence.hashing import document_keys, mix
from autointerp.features.text_rows import is_row
from autointerp.features.token_column import TokenColumn
from autointerp.predicate import TokenRows, TokenTable

MAX_ROWS = 2**18
_HALVES = 1 << 40  # added to the seed: another order than that in which documents are chosen
Ints = Int[np.ndarray, " row"]


@dataclass(frozen=True, eq=False)
class LearningRows:
    """Rows ascending by window and dst. `window` counts within `numbers`, which are windows of the corpus."""

    numbers: Int[np.ndarray, " window"]
    ids: Int[np.ndarray, "window pos"]
    lengths: Int[np.ndarray, " window"]
    documents: Int[np.ndarray, " window"]  # 0 .. n_documents - 1
    window: Ints
    dst: Ints
    here: TokenColumn
    before: TokenColumn
    seen_before: Bool[np.ndarray, " row"]
    measuring: Bool[np.ndarray, " row"]  # of the half on which rules are measured; they are learned on the others
    text_at: Int[np.ndarray, "window pos"]  # code in `strings`, -1 at pads and control tokens
    strings: list[str]  # of `text_at`

    def __len__(self) -> int:
        return len(self.dst)

    @property
    def n_documents(self) -> int:
        return int(self.documents.max(initial=-1)) + 1

    def find(self, window: int, dst: int) -> int | None:
        """The row at `dst` of a window of the corpus; None where it is not among these."""
        place = int(np.searchsorted(self.numbers, window))
        if place == len(self.numbers) or self.numbers[place] != window:
            return None
        start, stop = int(self.starts[place]), int(self.starts[place + 1])
        row = start + int(np.searchsorted(self.dst[start:stop], np.int32(dst)))
        return row if row < stop and self.dst[row] == dst else None

    @cached_property
    def starts(self) -> Int[np.ndarray, " bound"]:
        """The first row of each window, and the end."""
        return np.concatenate([[0], np.cumsum(np.bincount(self.window, minlength=len(self.numbers)))])

    @cached_property
    def named_strings(self) -> Bool[np.ndarray, " string"]:
        """Which of `strings` a rule may name."""
        return np.array([string != "" for string in self.strings], bool)

    @cached_property
    def pairs(self) -> tuple[Ints, Int[np.ndarray, "2 pair"], Int[np.ndarray, " pair"]]:
        """(token before, token): which pair each row has; the two codes of each pair; its rows."""
        size = len(self.here.strings)
        found, codes = np.unique(self.before.codes.astype(np.int64) * size + self.here.codes, return_inverse=True)
        return codes, np.stack([found // size, found % size]), np.bincount(codes)

    @cached_property
    def firsts(self) -> tuple[Int[np.ndarray, " entry"], Int[np.ndarray, " entry"], Int[np.ndarray, " entry"]]:
        """Where each string first occurs in each window: (window, position, code in `strings`)."""
        n, size = self.text_at.shape
        flat = np.arange(n)[:, None] * np.int64(len(self.strings)) + self.text_at
        flat[self.text_at < 0] = -1
        values, where = np.unique(flat.ravel(), return_index=True)
        where, values = where[values >= 0], values[values >= 0]
        return where // size, where % size, values % len(self.strings)

    @cached_property
    def pair_seen_before(self) -> Bool[np.ndarray, " row"]:
        """Whether the same two ids, the token before and the token, occur earlier in the window."""
        ids = self.ids[self.window, self.dst], self.ids[self.window, self.dst - 1]
        order = np.lexsort((self.dst, *ids, self.window))
        keys = [array[order] for array in (self.window, *ids)]
        again = np.zeros(len(order), bool)
        again[order[1:]] = np.logical_and.reduce([key[1:] == key[:-1] for key in keys])
        return again


def learning_rows(
    explain: ExplainWindows, table: TokenTable, strings: Sequence[str], special_ids: tuple[int, ...], seed: int
) -> LearningRows:
    """The rows of the split, or of as many of its documents as `MAX_ROWS` allows."""
    numbers = _chosen_windows(explain, seed)
    lengths = np.asarray(explain.windows.lengths[numbers]).astype(np.int64)
    ids = np.asarray(explain.windows.ids[numbers]).astype(np.int64)[:, : int(lengths.max(initial=1))]
    tokens = TokenRows(ids, lengths, table)
    window, dst = np.nonzero(is_row(ids, lengths, special_ids))
    starts = np.asarray(tokens.attribute("is_word_start"))
    real = tokens.valid & ~table.flags["is_special"][tokens.ids]
    text = np.asarray(tokens.attribute("text"))
    _, first, at = np.unique(text, return_index=True, return_inverse=True)
    some = tokens.ids.ravel()[first]
    return LearningRows(
        numbers=numbers,
        ids=ids,
        lengths=lengths,
        documents=np.unique(np.asarray(explain.windows.doc[numbers]), return_inverse=True)[1],
        window=window.astype(np.int32),
        dst=dst.astype(np.int32),
        here=TokenColumn.of("dst", ids[window, dst], starts[window, dst], table, strings),
        before=TokenColumn.of("dst.prev", ids[window, dst - 1], starts[window, dst - 1], table, strings),
        seen_before=np.asarray(tokens.attribute("seen_before"))[window, dst],
        measuring=_measuring(explain, numbers, seed)[window],
        text_at=np.where(real, at.reshape(text.shape), -1).astype(np.int32),
        strings=[strings[int(i)] for i in some],
    )


def _measuring(explain: ExplainWindows, numbers: Int[np.ndarray, " window"], seed: int) -> Bool[np.ndarray, " window"]:
    """Every other cluster of near-duplicates, in the order of the smallest hash of its documents."""
    documents = np.asarray(explain.windows.doc[numbers])
    keys = document_keys([explain.windows.doc_ids[int(d)] for d in documents])
    hashes = mix(keys ^ mix(np.array([seed], np.uint64) + np.uint64(_HALVES)))
    clusters, place = np.unique(np.asarray(explain.cluster[numbers]), return_inverse=True)
    least = np.full(len(clusters), np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(least, place, hashes)
    rank = np.empty(len(clusters), np.int64)
    rank[np.argsort(least, kind="stable")] = np.arange(len(clusters))
    return np.asarray(rank[place] % 2 == 1)


def _chosen_windows(explain: ExplainWindows, seed: int) -> Int[np.ndarray, " window"]:
    lengths = np.asarray(explain.windows.lengths[explain.numbers]).astype(np.int64) - 1
    if int(lengths.sum()) <= MAX_ROWS:
        return np.asarray(explain.numbers)
    documents, place = np.unique(np.asarray(explain.windows.doc[explain.numbers]), return_inverse=True)
    keys = document_keys([explain.windows.doc_ids[int(d)] for d in documents])
    order = np.argsort(mix(keys ^ mix(np.array([seed], np.uint64))))
    rows = np.bincount(place, weights=lengths)[order].cumsum()
    kept = np.zeros(len(documents), bool)
    kept[order[: max(int((rows <= MAX_ROWS).sum()), 1)]] = True
    return np.asarray(explain.numbers[kept[place]])
