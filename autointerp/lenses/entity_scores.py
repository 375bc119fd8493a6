"""Numbers of an evaluation: what was said against what is true, with intervals over documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from autointerp.lenses.entity_metrics import chrf_counts, chrf_interval, corpus_chrf, em, em_norm, pm, pm_original
from autointerp.stats.bootstrap import Estimate, Resamples, clopper_pearson, ratio_interval

SCORES = {"em": em, "em_norm": em_norm, "pm": pm, "pm_original": pm_original}
PairScores = dict[str, Float64[np.ndarray, " item"]]


@dataclass(frozen=True)
class EvalRow:
    """One condition at one layer on one part of the test mentions. `pm` cannot be won by an empty output, the
    published `pm_original` can. The margin is of exact match, over the best control, on the same resamples."""

    part: str
    layer: int
    condition: str
    subset: str
    n: int
    n_docs: int
    em: float
    em_low: float
    em_high: float
    em_norm: float
    pm: float
    pm_low: float
    pm_high: float
    pm_original: float
    chrf: float
    chrf_low: float
    chrf_high: float
    token_acc: float | None = None
    first_token_acc: float | None = None
    margin: float | None = None
    margin_low: float | None = None
    margin_high: float | None = None
    best_control: str | None = None


@dataclass(frozen=True, eq=False)
class Judge:
    """The true mentions of one part, their documents and the shared draws of documents."""

    true: tuple[str, ...]
    document: tuple[str, ...]
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "_docs", {doc: n for n, doc in enumerate(sorted(set(self.document)))})
        object.__setattr__(self, "_resamples", Resamples.of(max(1, len(set(self.document))), self.seed))

    @property
    def resamples(self) -> Resamples:
        found: Resamples = self.__dict__["_resamples"]
        return found

    def pairs(self, said: Sequence[str]) -> PairScores:
        """Each score of each item."""
        return {
            name: np.array([score(one, true) for one, true in zip(said, self.true, strict=True)], dtype=float)
            for name, score in SCORES.items()
        }

    def per_doc(self, values: np.ndarray, chosen: Bool[np.ndarray, " item"]) -> np.ndarray:
        """Sums over the chosen items of each document."""
        docs: dict[str, int] = self.__dict__["_docs"]
        number = np.array([docs[doc] for doc in self.document])
        sums = np.zeros((len(docs), *values.shape[1:]))
        np.add.at(sums, number[chosen], values[chosen])
        return sums

    def row(self, key: tuple[str, int, str, str], said: Sequence[str], chosen: Bool[np.ndarray, " item"]) -> EvalRow:
        """All scores of the chosen items; `key` is part, layer, condition, subset."""
        pairs, count = self.pairs(said), self.per_doc(np.ones(len(said)), chosen)
        rates = {name: _widened(self._rate(pairs[name], count, chosen), int((count > 0).sum())) for name in SCORES}
        kept = [(one, true) for one, true, use in zip(said, self.true, chosen, strict=True) if use]
        grams = self.per_doc(
            np.stack([chrf_counts(one, true) for one, true in zip(said, self.true, strict=True)]), chosen
        )
        low, high = chrf_interval(grams, self.resamples)
        return EvalRow(
            *key, int(chosen.sum()), int((count > 0).sum()), *rates["em"], rates["em_norm"].value, *rates["pm"],
            rates["pm_original"].value, corpus_chrf([one for one, _ in kept], [true for _, true in kept]), low, high,
        )  # fmt: skip

    def _rate(self, values: np.ndarray, count: np.ndarray, chosen: Bool[np.ndarray, " item"]) -> Estimate:
        return ratio_interval(self.per_doc(values, chosen), count, self.resamples)

    def margin(self, ours: Sequence[str], theirs: Sequence[str]) -> Estimate:
        """Exact match of ours less theirs, over the same resamples."""
        chosen = np.ones(len(self.true), dtype=bool)
        difference = self.pairs(ours)["em"] - self.pairs(theirs)["em"]
        return self._rate(difference, self.per_doc(np.ones(len(self.true)), chosen), chosen)


def _widened(rate: Estimate, n_docs: int) -> Estimate:
    """Resamples of nothing but zeros (or ones) say nothing about the rate: the exact interval over documents does."""
    if rate.value not in (0.0, 1.0):
        return rate
    return Estimate(rate.value, *clopper_pearson(round(rate.value * n_docs), n_docs))


def subsets(n_ids: Sequence[int], frequency: Sequence[int]) -> dict[str, Bool[np.ndarray, " item"]]:
    """Items by length of the mention in tokens and by quartile of how often training names the entity."""
    length, often = np.array(n_ids), np.array(frequency)
    found = {"all": np.ones(len(length), dtype=bool), "several tokens": length > 1, "1 token": length == 1}
    found |= {f"{n} tokens": length == n for n in (2, 3)} | {"4+ tokens": length >= 4}
    if often.any():
        edges = np.quantile(often, [0.25, 0.5, 0.75])
        quartile = np.searchsorted(edges, often, side="left")
        found |= {f"frequency quartile {q + 1}": quartile == q for q in range(4)}
    return {name: chosen for name, chosen in found.items() if chosen.any()}
