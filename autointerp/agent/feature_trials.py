"""What one unit did on select rows, and what predicates say of it: scores, counterexamples, disagreements.

1. A predicate is scored as `scoring.feature_predicates` scores it, with the select rows in both places: positional
   rivals, token identity (learned on explain rows, its threshold chosen on select), fixed wrong descriptions, chance.
   The model with random weights is left out: it is read at the end of a run.
2. Counterexamples: *predicted but silent* (named, and the unit at rest); *active but unpredicted*; *right place but no
   effect* (named and active, and under 1e-4 nats lost with the unit at its mean), on a drawn sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from autointerp.agent.feature_changes import without_unit
from autointerp.agent.feature_subject import FeatureSubject
from autointerp.agent.picking import Group, drawn, heaviest
from autointerp.agent.requests import EFFECT_TOKENS
from autointerp.evidence.effects import kl_divergence
from autointerp.feature_records import ACTIVE, RESTING
from autointerp.records import Score, Unscored
from autointerp.scoring.contest import IDENTITY, Contest, Overlap, score_contest
from autointerp.scoring.feature_rivals import POSITION_RIVALS, WRONG, best_threshold
from autointerp.scoring.feature_rows import iou
from autointerp.scoring.feature_tallies import UnitActivity, UnitTallies, tally
from autointerp.scoring.verdict import MIN_KL

SCORER = "predicate"
MOST_EFFECTS, LEAST_EFFECTS = 12, 2  # rows that are run without the unit: a run scores thousands of units
PURPOSE = 2


@dataclass(frozen=True, eq=False)
class Failures:
    """Counterexamples of a predicate; `unexplained`: part of all activation above rest; `no_effect`: of a sample that
    was ablated, the rows that lost nothing."""

    silent: Group
    unpredicted: Group
    unexplained: float
    no_effect: Group


class FeatureTrial:
    """One unit on the select rows."""

    def __init__(self, subject: FeatureSubject) -> None:
        self.subject, self.rows = subject, subject.data.select_rows
        self.named = subject.data.named

    @cached_property
    def shares(self) -> Float32[np.ndarray, "window pos"]:
        """Of the reference, from 0 up; 0 where there is no row."""
        return np.asarray(np.where(self.named.rows, np.maximum(self.subject.shares("select"), 0), 0))

    @cached_property
    def active(self) -> Bool[np.ndarray, "window pos"]:
        return np.asarray(self.named.rows & (self.shares >= ACTIVE))

    @cached_property
    def resting(self) -> Bool[np.ndarray, "window pos"]:
        return np.asarray(self.named.rows & (self.shares <= RESTING))

    @cached_property
    def _activity(self) -> UnitActivity:
        return UnitActivity(self.rows, self.shares[None])

    @cached_property
    def _identity(self) -> Bool[np.ndarray, "window pos"]:
        """What token identity names, at the threshold that does best on these rows."""
        rates = self.subject.data.token_rates(self.subject.model, self.subject.unit)
        predicted = rates.predicted(0, rates.places(self.rows.ids))
        least = best_threshold(self._activity.quantities[:, 0], predicted, self.named.rows)
        return np.asarray((predicted >= least) & self.named.rows)

    def score(self, predicate: str) -> Score | Unscored:
        """The predicate's score on these rows, beside the best positional rival and token identity. Raises
        PredicateError."""
        names = list(dict.fromkeys([predicate, *POSITION_RIVALS.values(), *WRONG.values()]))
        masks = np.concatenate([self.named.masks(names), self._identity[None]])
        index = {name: place for place, name in enumerate(names)}
        contest = Contest(
            own=0,
            rivals={name: index[p] for name, p in POSITION_RIVALS.items()} | {IDENTITY: len(names)},
            others={},
            donors=(),
            generic=tuple(index[p] for p in WRONG.values() if p != predicate),
        )
        tallies, overlap = UnitTallies(tally(self._activity, masks), 0), iou(masks, [0])
        score = score_contest(
            (tallies, tallies), contest, Overlap(overlap, overlap), self.subject.data.resamples, self.rows.domain
        )
        if score is None:
            return Unscored(scorer=SCORER, reason=f"it reaches {ACTIVE} of its usual maximum in no held-out row")
        return score

    def failures(self, predicate: str) -> Failures:
        """The three kinds of counterexamples. Raises PredicateError."""
        mask = self.named.mask(predicate)
        above = np.where(self.shares > RESTING, self.shares, 0).astype(np.float64)
        everything = float(above.sum())
        return Failures(
            self.drawn(mask & self.resting, int(mask.sum())),
            self._heaviest(self.active & ~mask, int(self.active.sum())),
            1 - float(above[mask].sum()) / everything if everything > 0 else float("nan"),
            self._without_effect(mask & self.active),
        )

    def effects(self, window: Int[np.ndarray, " row"], dst: Int[np.ndarray, " row"]) -> Float[np.ndarray, " row"]:
        """KL at places when the unit there becomes its mean, nats."""
        found = np.zeros(len(dst))

        def read(numbers: Int[np.ndarray, " part"], before: Tensor, after: Tensor) -> None:
            found[numbers] = kl_divergence(before, after).double().cpu().numpy()

        shares = self.subject.shares("select")[window, dst]
        without_unit(self.subject, np.asarray(self.rows.ids), (window, dst), shares, read)
        return found

    def drawn(self, where: Bool[np.ndarray, "window pos"], of: int = 0) -> Group:
        """All places, in a seeded order that takes documents in turns."""
        return drawn(where, self.rows.documents, self.subject.rng(PURPOSE), of)

    def _without_effect(self, right: Bool[np.ndarray, "window pos"]) -> Group:
        """Of a sample of the rows in the right place, those that lose nothing."""
        n = int(np.clip(EFFECT_TOKENS // (2 * self.rows.ids.shape[1]), LEAST_EFFECTS, MOST_EFFECTS))
        group = self.drawn(right, n)
        window, dst = group.window[:n], group.dst[:n]
        weak = self.effects(window, dst) < MIN_KL
        return Group(window[weak], dst[weak], len(dst))

    def _heaviest(self, missed: Bool[np.ndarray, "window pos"], of: int) -> Group:
        """The largest activation first; a first one of every document and of every token before any second one."""
        window, dst = np.nonzero(missed)
        documents = [(int(d),) for d in self.rows.documents[window]]
        tokens = [(int(i),) for i in self.rows.ids[window, dst]]
        return heaviest(window, dst, self.shares[window, dst], (documents, tokens), of)
