"""How often tokens, and tokens after tokens, stand in the planted text: what the planted units are drawn by."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import islice

import numpy as np
from jaxtyping import Bool, Int

from autointerp.planted.corpus import documents
from autointerp.planted.tokenizer import planted_tokenizer
from autointerp.planted.words import vocabulary

COUNTED_DOCUMENTS = 400
STREAM = "planted-prior"  # documents that no run reads


@dataclass(frozen=True, eq=False)
class Counts:
    """Every token of the counted text with the one before it (-1 at a document's start), document by document, and the
    documents as fed, BOS first (0 fills up)."""

    ids: Int[np.ndarray, "document pos"]
    token: Int[np.ndarray, " row"]
    before: Int[np.ndarray, " row"]
    document: Int[np.ndarray, " row"]

    def rows(self, tokens: Collection[int], before: Collection[int] | None = None) -> Bool[np.ndarray, " row"]:
        """Where one of `tokens` stands, after one of `before` if given."""
        found = np.asarray(_member(tokens)[self.token])
        return found if before is None else found & self.after_any(before)

    def after_any(self, before: Collection[int]) -> Bool[np.ndarray, " row"]:
        """Places after one of `before`, whatever stands there."""
        return np.asarray(_member(before)[self.before])

    def after(self, active: Bool[np.ndarray, "document pos"]) -> list[int]:
        """Ids that follow such places, the commonest first."""
        following = self.ids[:, 1:][active[:, :-1]]
        found, rows = np.unique(following[following > 0], return_counts=True)
        return [int(i) for i in found[np.lexsort((found, -rows))]]

    def row_share(self, tokens: Collection[int], before: Collection[int] | None = None) -> float:
        return float(self.rows(tokens, before).mean())

    def document_share(self, tokens: Collection[int], before: Collection[int] | None = None) -> float:
        found = np.bincount(self.document[self.rows(tokens, before)], minlength=COUNTED_DOCUMENTS)
        return float((found > 0).mean())

    @cached_property
    def coded(self) -> tuple[int, ...]:
        """Ids that occur, ascending, without control tokens and single characters."""
        kinds = [kind for _, kind in vocabulary()]
        return tuple(int(i) for i in np.unique(self.token) if kinds[i] not in ("control", "character"))


def _member(tokens: Collection[int]) -> Bool[np.ndarray, " token"]:
    """By id, whether it is one of `tokens`; the last entry is that of -1."""
    found = np.zeros(len(vocabulary()) + 1, dtype=bool)
    found[list(tokens)] = True
    return found


@cache
def counts() -> Counts:
    """The counted text."""
    tokenizer = planted_tokenizer()
    texts = [tokenizer.encode(t, add_special_tokens=False) for t in islice(documents(STREAM), COUNTED_DOCUMENTS)]
    ids = np.zeros((len(texts), 1 + max(map(len, texts))), dtype=np.int64)
    for row, text in zip(ids, texts, strict=True):
        row[1 : 1 + len(text)] = text
    return Counts(
        ids,
        np.concatenate([np.array(ids) for ids in texts]),
        np.concatenate([np.array([-1, *ids[:-1]]) for ids in texts]),
        np.repeat(np.arange(len(texts)), [len(ids) for ids in texts]),
    )
