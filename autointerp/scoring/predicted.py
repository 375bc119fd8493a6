"""What predicates predict on held-out rows: masks by predicate, kept as bits, and how much they overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8

from autointerp.predicate import TokenTable, evaluate, parse
from autointerp.records import Description, Failure, Feature, Head
from autointerp.scoring.held_out import HeldOutRows

DONOR_POOL = 24

# Fixed rivals: rules of position that any model of language could follow (scoring_validity rule 10).
POSITIONAL_RIVALS: dict[str, str] = {
    "first token": "src.position == 1",
    "self": "distance == 0",
    "previous token": "distance == 1",
    "offset 2": "distance == 2",
    "offset 3": "distance == 3",
    "offset 4": "distance == 4",
    "last 8 tokens": "distance <= 7",
    "sentence start": 'nearest(src.prev.lower in {".", "!", "?"} or src.prev.is_newline or src.position == 1)',
}
# Fixed wrong descriptions, for runs with too few other rules to shuffle.
GENERIC: dict[str, str] = {
    "important words": "src.is_capitalised or src.is_number",
    "punctuation": "src.is_punctuation",
    "recent words": "src.is_word_start and distance <= 4",
    "repeated words": "src.seen_before",
    "long words": "src.length >= 6",
    "beginnings": "src.position <= 4",
    "same first letters": "dst.is_word_start and src.is_word_start and distance > 1",
}


class PredictedPairs:
    """Masks of predicates on one set of rows, cut to scored destinations and to sources off the sink."""

    def __init__(self, held_out: HeldOutRows, table: TokenTable) -> None:
        self.held_out = held_out
        self._table = table
        self._bits: dict[str, UInt8[np.ndarray, " byte"]] = {}
        self._sink: dict[str, bool] = {}
        self._pairs = held_out.rows[:, :, None] & held_out.sources[:, None, :]

    def mask(self, predicate: str) -> Bool[np.ndarray, "window dst src"]:
        """Predicted pairs off the sink."""
        if predicate not in self._bits:
            whole = evaluate(parse(predicate), self.held_out.ids, self.held_out.lengths, self._table)
            self._sink[predicate] = bool((whole[:, :, 0] & self.held_out.rows).any())
            self._bits[predicate] = np.packbits(whole & self._pairs)
        shape = self._pairs.shape
        return np.unpackbits(self._bits[predicate], count=self._pairs.size).reshape(shape).astype(bool)

    def masks(self, predicates: Sequence[str]) -> Bool[np.ndarray, "predicate window dst src"]:
        return np.stack([self.mask(p) for p in predicates])

    def only_sink(self, predicate: str) -> bool:
        """Whether the predicate names the first position and nothing else."""
        return not self.mask(predicate).any() and self._sink[predicate]

    def destinations(self, predicate: str) -> Bool[np.ndarray, "window dst"]:
        """Destinations for which the predicate names a source."""
        return self.held_out.rows if self.only_sink(predicate) else np.asarray(self.mask(predicate).any(-1))


def overlap(masks: Bool[np.ndarray, "predicate window dst src"]) -> Float[np.ndarray, "predicate predicate"]:
    """IoU of predicted pairs, every predicate with every other; 1 for two that predict nothing."""
    n = len(masks)
    both = np.zeros((n, n))
    for window in range(masks.shape[1]):
        flat = masks[:, window].reshape(n, -1).astype(np.float32)
        both += flat @ flat.T
    sizes = np.diag(both)
    union = sizes[:, None] + sizes[None, :] - both
    return np.where(union > 0, both / np.maximum(union, 1), 1.0)


def predicate_of(outcome: Description | Failure) -> str | None:
    """The predicate of a description that claims something."""
    return None if isinstance(outcome, Failure) or outcome.abstained else outcome.predicate


def some_predicates(claims: Mapping[Head, str] | Mapping[Feature, str], seed: int, limit: int) -> list[str]:
    """Different predicates of the run, at most `limit`, in seeded order."""
    unique = sorted(set(claims.values()))
    order = np.random.default_rng(seed).permutation(len(unique))
    return [unique[i] for i in order[:limit]]
