"""Tier T3: pairs that the head attends to, with one token changed, measured again (scoring_validity rules 4 and 5).

1. Up to EDITS positive pairs of a head on test rows, documents spread, whatever the description says of them. In half
   of them the token of the source, in the others that of the destination, is replaced by an ordinary token of the
   select rows.
2. The head is measured on the edited windows. Where the pair's share fell to .02 or less, or the row came to rest (less
   than a tenth of the attention off the sink), it is a verified negative of tier T3; from .3 on the head went on.
3. The predicate is decided anew on the edited text. Its rate of errors on T3 is the share of these negatives that it
   still predicts; F1 on T3 is that of the score with all negatives wrong at this rate, so at natural prevalence.
4. Beside it: of the edits that end the prediction, how often the head went on although the description says no.

Edits are drawn without the predicate: those chosen to end its prediction could never show it wrong. Where no token of
source or destination matters (a positional head) there are no negatives, which the note says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int

from autointerp.model import LanguageModel
from autointerp.predicate import TokenTable, evaluate, parse
from autointerp.records import Head, Score, Unscored
from autointerp.scoring.conditional_cases import spread
from autointerp.scoring.held_out import HeldOutRows
from autointerp.scoring.memo import Memo, NoMemo
from autointerp.scoring.patch_edits import Edits
from autointerp.scoring.predicted import PredictedPairs
from autointerp.scoring.tallies import THETA_HIGH, THETA_LOW, HeadTruth, LayerTallies

EDITS, MIN_T3 = 64, 20
TRIES = 4  # tokens drawn until one differs from what is there
Details = dict[str, float | int | str | None]


@dataclass(frozen=True, eq=False)
class Measured:
    """What became of each edited pair: its share, whether the row still has shares, what the predicate says."""

    share: Float[np.ndarray, " case"]
    valid: Bool[np.ndarray, " case"]
    before: Bool[np.ndarray, " case"]
    after: Bool[np.ndarray, " case"]

    @property
    def negative(self) -> Bool[np.ndarray, " case"]:
        """Verified negatives."""
        return np.asarray(~self.valid | (self.share <= THETA_LOW))

    @property
    def went_on(self) -> Bool[np.ndarray, " case"]:
        """Pairs that are still positive."""
        return np.asarray(self.valid & (self.share >= THETA_HIGH))


@dataclass(frozen=True, eq=False)
class _Edited:
    """Edited windows of a head, and what it did at the edited pairs."""

    edits: Edits
    rows: HeldOutRows
    share: Float[np.ndarray, " case"]
    valid: Bool[np.ndarray, " case"]


@dataclass(frozen=True, eq=False)
class EditedPairs:
    """Edits of the test rows; `pool` are the ids that they draw from. A head costs one run of at most EDITS windows."""

    model: LanguageModel
    pairs: PredictedPairs
    table: TokenTable
    pool: Int[np.ndarray, " id"]
    seed: int
    batch_size: int
    memo: Memo = field(default_factory=NoMemo)  # of heads that were run on their edited windows

    def with_tier(
        self, scores: Mapping[Head, Score | Unscored], tallies: LayerTallies, predicates: Mapping[Head, str]
    ) -> dict[Head, Score | Unscored]:
        """The scores of heads of one layer with tier T3 in their details."""
        found: dict[Head, Score | Unscored] = {}
        for head, score in scores.items():
            if isinstance(score, Score):
                measured = self.measure(head, tallies.positives[head.index], predicates[head])
                score = score.model_copy(update={"details": score.details | tier_three(measured, score.details)})
            found[head] = score
        return found

    def measure(self, head: Head, positives: Int[np.ndarray, "pair 3"], predicate: str) -> Measured:
        """Edit some of the positives (window, dst, src) and run the model on them."""
        key = "edited", self.pairs.held_out.domain, head
        found = self.memo.get(key, lambda: self._run(head, positives))
        if found is None:
            nothing = np.zeros(0, dtype=bool)
            return Measured(np.zeros(0), nothing, nothing, nothing)
        edits, rows = found.edits, found.rows
        pair = edits.dst, edits.src
        holds = evaluate(parse(predicate), rows.ids, rows.lengths, self.table)
        before = self.pairs.mask(predicate)[(edits.window, *pair)]
        return Measured(found.share, found.valid, before, holds[(np.arange(len(edits)), *pair)])

    def _run(self, head: Head, positives: Int[np.ndarray, "pair 3"]) -> _Edited | None:
        """The part without the predicate; None where no positive can be edited."""
        held = self.pairs.held_out
        edits = draw_edits(held, positives, self.pool, np.random.default_rng([self.seed, head.layer, head.index, 5]))
        if not len(edits):
            return None
        rows, case = edits.rows(held), np.arange(len(edits))
        truth = HeadTruth.of(self.model, rows, head, self.batch_size)
        return _Edited(edits, rows, truth.a[case, edits.dst, edits.src], truth.valid[case, edits.dst])


def ordinary_ids(rows: HeldOutRows, special_ids: tuple[int, ...]) -> Int[np.ndarray, " id"]:
    """The tokens of some rows, each once, without control tokens."""
    inside = np.arange(rows.ids.shape[1]) < rows.lengths[:, None]
    seen = np.unique(rows.ids[inside]).astype(np.int64)
    return np.asarray(seen[~np.isin(seen, special_ids)])


def draw_edits(
    held_out: HeldOutRows, positives: Int[np.ndarray, "pair 3"], pool: Int[np.ndarray, " id"], rng: np.random.Generator
) -> Edits:
    """Up to EDITS of the pairs, each with another token at its source or its destination, half and half."""
    window, dst, src = positives[spread(held_out.documents[positives[:, 0]], EDITS, rng)].T
    place = np.where(rng.permutation(len(dst)) % 2 == 0, src, dst)
    token = rng.choice(pool, (len(dst), TRIES)) if len(pool) else np.zeros((len(dst), 0), np.int64)
    differs = token != held_out.ids[window, place][:, None]
    able = np.flatnonzero(differs.any(1)) if token.shape[1] else np.zeros(0, np.int64)
    unknown = np.full(len(dst), np.nan, np.float32)  # at least .3; what it was exactly is not looked at
    chosen = token[np.arange(len(dst)), differs.argmax(1)] if token.shape[1] else place
    return Edits(window, dst, src, place, chosen.astype(np.int64), unknown).take(able)


def tier_three(measured: Measured, details: Mapping[str, float | int | str | None]) -> Details:
    """Errors on T3 and F1 at that rate, from the counts in the score's details; None without a negative."""
    n = int(measured.negative.sum())
    rate = float(measured.after[measured.negative].mean()) if n else None
    ended = measured.before & ~measured.after
    return {
        "edits_T3": len(measured.share),
        "negatives_T3": n,
        "at_rest_T3": int((~measured.valid).sum()),
        "false_positive_rate_T3": rate,
        "f1_T3": None if rate is None else _f1_at(rate, details),
        "ended_T3": int(ended.sum()),
        "went_on_T3": float(measured.went_on[ended].mean()) if ended.any() else None,
        "negatives_T3_note": "" if n >= MIN_T3 else f"fewer than {MIN_T3}: could not be filled",
    }


def _f1_at(rate: float, details: Mapping[str, float | int | str | None]) -> float | None:
    """2 TP / (TP + FP + positives), FP being `rate` of all negatives."""
    recall, positives, negatives = (details.get(name) for name in ("recall", "positives", "negatives"))
    if not isinstance(recall, float) or not isinstance(positives, int) or not isinstance(negatives, int):
        return None
    tp = recall * positives
    return 2 * tp / (tp + rate * negatives + positives)
