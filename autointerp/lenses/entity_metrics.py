"""How near a generated mention is to the true one. Scores of single pairs; averages and intervals are elsewhere.

`pm_original` is the published partial match, which an empty output always wins (the empty string is in every
string); `pm` asks for a non-empty output.
"""

from __future__ import annotations

import string
import unicodedata

import numpy as np
from jaxtyping import Float64, Int

from autointerp.stats.bootstrap import Resamples, interval

ORDER = 6  # characters
BETA = 2


def em(said: str, true: str) -> bool:
    """Equal, case and all, but for outer white space."""
    return said.strip() == true.strip()


def em_norm(said: str, true: str) -> bool:
    """Equal after NFKC, case folding, and without outer punctuation."""
    return _plain(said) == _plain(true)


def _plain(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.split()).strip(string.punctuation + string.whitespace)


def pm_original(said: str, true: str) -> bool:
    """One contains the other; an empty output counts."""
    return said.strip() in true.strip() or true.strip() in said.strip()


def pm(said: str, true: str) -> bool:
    """One contains the other, and the output is not empty."""
    return bool(said.strip()) and pm_original(said, true)


def chrf_counts(said: str, true: str) -> Int[np.ndarray, " count"]:
    """Character n-gram counts of one pair, n = 1 to 6: output, truth, matches of each; they add up over pairs."""
    from sacrebleu.metrics.helpers import extract_all_char_ngrams

    rows = []
    for ours, theirs in zip(extract_all_char_ngrams(said, ORDER), extract_all_char_ngrams(true, ORDER), strict=True):
        rows += [sum(ours.values()) if theirs else 0, sum(theirs.values()), (ours & theirs).total()]
    return np.array(rows)


def chrf_from_counts(counts: Float64[np.ndarray, "*shape count"]) -> Float64[np.ndarray, "*shape"]:
    """Corpus chrF (order 6, beta 2, 0 to 100) from summed counts, as sacrebleu computes it: F of the mean precision
    and the mean recall over the orders that both sides have."""
    ours, theirs, match = (counts[..., n::3].astype(float) for n in range(3))
    used = (ours > 0) & (theirs > 0)
    n = np.maximum(used.sum(-1), 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(used, match / ours, 0.0).sum(-1) / n
        recall = np.where(used, match / theirs, 0.0).sum(-1) / n
        f = 100 * (1 + BETA**2) * precision * recall / (BETA**2 * precision + recall)
    return np.asarray(np.where(precision + recall > 0, f, 0.0))


def corpus_chrf(said: list[str], true: list[str]) -> float:
    """chrF of a corpus, by sacrebleu."""
    from sacrebleu.metrics.chrf import CHRF

    return float(CHRF(char_order=ORDER, word_order=0, beta=BETA).corpus_score(said, [true]).score)


def chrf_interval(counts: Int[np.ndarray, "doc count"], resamples: Resamples) -> tuple[float, float]:
    """95 % interval of corpus chrF over documents."""
    return interval(chrf_from_counts(resamples.totals(counts)))
