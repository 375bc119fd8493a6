"""Rules that need no understanding of a neuron or latent, which its description must beat (scoring_validity rule 10).

Positional programs, the token-identity table, and fixed wrong descriptions for runs with too few others to shuffle.
Token identity is the rival that matters most here: how often a unit is active at a token, whatever stands around it,
learned on the explain split and shrunk to the unit's own rate; its threshold is chosen on select.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from autointerp.scoring.contest import METRICS, metric_on
from autointerp.scoring.feature_tallies import OF_PREDICATE, tallied_totals
from autointerp.scoring.token_identity import PRIOR, THRESHOLDS

POSITION_RIVALS: dict[str, str] = {
    "always": "dst.position >= 0",
    "first positions": "dst.position <= 4",
    "early positions": "dst.position <= 16",
    "word start": "dst.is_word_start",
    "inside a word": "dst.is_word and not dst.is_word_start",
    "punctuation": "dst.is_punctuation",
    "line break": "dst.is_newline",
    "capitalised": "dst.is_capitalised",
    "number": "dst.is_number",
    "seen before": "dst.seen_before",
    "after punctuation": "dst.prev.is_punctuation",
}
WRONG: dict[str, str] = {
    "important words": "dst.is_capitalised or dst.is_number",
    "signs": "dst.is_punctuation or dst.is_quote",
    "long words": "dst.length >= 6",
    "repeated words": "dst.seen_before and dst.is_word",
    "words after a sign": "dst.prev.is_punctuation and dst.is_word",
    "beginnings": "dst.position <= 8",
    "after a capital": "any(src.is_capitalised and distance <= 3)",
}


@dataclass(frozen=True, eq=False)
class TokenRates:
    """How often some units are active at each token: `rate [feature token]` for the ascending `tokens`, `base
    [feature]` for all others."""

    tokens: Int[np.ndarray, " token"]
    rate: Float[np.ndarray, "feature token"]
    base: Float[np.ndarray, " feature"]

    @classmethod
    def of(cls, active: list[Int[np.ndarray, " row"]], seen: Int[np.ndarray, " row"]) -> TokenRates:
        """From the tokens of each unit's active rows, and of all rows."""
        tokens, counts = np.unique(seen, return_counts=True)
        hits = np.stack([np.bincount(np.searchsorted(tokens, a), minlength=len(tokens)) for a in active])
        base = hits.sum(1) / max(len(seen), 1)
        return cls(tokens, (hits + PRIOR * base[:, None]) / (counts + PRIOR), base)

    def places(self, ids: Int[np.ndarray, "window pos"]) -> Int[np.ndarray, "window pos"]:
        """Where each token stands in `tokens`, their number for one that is not there."""
        n = len(self.tokens)
        place = np.searchsorted(self.tokens, ids).clip(0, max(n - 1, 0))
        return np.asarray(np.where(self.tokens[place] == ids, place, n)) if n else np.zeros(ids.shape, np.int64)

    def predicted(self, feature: int, places: Int[np.ndarray, "window pos"]) -> Float[np.ndarray, "window pos"]:
        """Predicted chance that a unit, by its number, is active at tokens given by `places`."""
        return np.asarray(np.append(self.rate[feature], self.base[feature])[places])


def best_threshold(
    quantities: Float32[np.ndarray, "quantity window pos"],
    predicted: Float[np.ndarray, "window pos"],
    rows: Bool[np.ndarray, "window pos"],
) -> float:
    """From which predicted chance token identity should name a row, to do best on these rows. `quantities` are the
    unit's, in the order of OF_PREDICATE."""
    flat = quantities.reshape(len(OF_PREDICATE), -1).astype(np.float64)
    levels = np.stack([(predicted >= t) & rows for t in THRESHOLDS])
    totals = tallied_totals(flat)
    sums = dict(zip(OF_PREDICATE, flat @ levels.reshape(len(levels), -1).T, strict=True))
    values = METRICS[metric_on(totals)](sums | {name: np.full(len(levels), total) for name, total in totals.items()})
    return THRESHOLDS[int(np.argmax(np.nan_to_num(values, nan=-1.0)))]
