"""The predicate score of one head on held-out rows, with chance line, nulls and rivals (scoring_validity 3-11, 25).

1. On select: the best of the positional rivals and the token-identity table; donors for the shuffled explanation
   (other heads' predicates whose predicted pairs have IoU < .5 with this one's; fewer than three: our fixed generic
   descriptions).
2. On test: F1 over pairs (negatives matched on the destination token), or Pearson where less than half of the
   contribution on select lies in positive pairs; the same document resamples for every compared predicate.
3. Controls: chance line, shuffled explanation, random weights (nulls); best simple rival and, for an LLM, the detector
   text (rivals); a rival that predicts the same pairs (IoU >= .9 on test) is the same rule.
"""

from __future__ import annotations

from dataclasses import dataclass

from autointerp.records import Score, Unscored
from autointerp.scoring.contest import TWIN, Contest, Overlap, Sums, divide, f1, score_contest, totals_of
from autointerp.scoring.tallies import BY_HEAD, BY_PREDICATE, LayerTallies
from autointerp.stats.bootstrap import Resamples

__all__ = ["TWIN", "Contest", "HeadTallies", "Overlap", "Sums", "f1", "score_predicate"]

MIN_T2 = 20  # tier T2 counts as filled from here on


@dataclass(frozen=True)
class HeadTallies:
    """One head's part of the tallies of a split."""

    tallies: LayerTallies
    head: int

    def of(self, predicate: int) -> Sums:
        values = self.tallies.by_predicate[:, self.head, predicate]
        return dict(zip(BY_PREDICATE, values, strict=True)) | self.totals()

    def totals(self) -> Sums:
        return dict(zip(BY_HEAD, self.tallies.by_head[:, self.head], strict=True))


def score_predicate(
    select: HeadTallies, test: HeadTallies, contest: Contest, overlap: Overlap, resamples: Resamples, domain: str
) -> Score | Unscored:
    """Score one head's predicate; Unscored where the split holds no positive pair."""
    score = score_contest((select, test), contest, overlap, resamples, domain)
    if score is None:
        return Unscored(scorer="predicate", reason="no source reaches a share of .3 in any held-out row")
    return score.model_copy(update={"details": score.details | _tiers(test.of(contest.own), test)})


def _tiers(own: Sums, test: HeadTallies) -> dict[str, float | int | str | None]:
    totals = totals_of(own)
    return {
        "false_positive_rate_T0": float(divide(totals["fp_natural"], totals["negatives"])),
        "false_positive_rate_T1": float(divide(totals["fp"], totals["negatives"])),
        "false_positive_rate_T2": float(divide(totals["fp_same_tokens"], totals["same_tokens"])),
        "negatives_T2": int(totals["n_same_tokens"]),
        "negatives_T2_note": "" if totals["n_same_tokens"] >= MIN_T2 else f"fewer than {MIN_T2}",
        "no_write": float(test.tallies.no_write[test.head]),
    }
