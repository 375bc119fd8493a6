"""What one head did on select rows, and what predicates say of it: scores, counterexamples, disagreements.

1. `Trial` reads the head once a domain (`scoring.tallies.HeadTruth`) and keeps the masks of the simple rivals.
2. A predicate is scored by `scoring.predicate_score` with the select rows in both places: best rival, generic
   descriptions and chance line as in the final score, on other rows.
3. Counterexamples by destination: *predicted but silent* (sources named, at most .02 of the contribution comes from
   them, or the head rests on the first position); *active but unpredicted* (a source with at least .3 that is not
   named), with the part of all contribution that no predicted pair covers; *right place but no effect* (a named source
   with at least .3, and under 1e-4 nats lost with the head's mean in its place), on a drawn sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from autointerp.agent.picking import DRAWN, Group, drawn, heaviest
from autointerp.agent.requests import EFFECT_TOKENS, SELECT_TOKENS
from autointerp.agent.subject import Subject
from autointerp.errors import BadInput
from autointerp.evidence.effects import kl_divergence
from autointerp.model.one_position import RowChanges, run_changes
from autointerp.records import Domain, Score, Unscored
from autointerp.scoring.first_token import score_first_token, tally_first_token
from autointerp.scoring.held_out import HeldOutRows
from autointerp.scoring.predicate_score import Contest, HeadTallies, Overlap, score_predicate
from autointerp.scoring.predicted import GENERIC, POSITIONAL_RIVALS, PredictedPairs, overlap
from autointerp.scoring.tallies import THETA_HIGH, THETA_LOW, HeadTruth
from autointerp.scoring.verdict import MIN_KL
from autointerp.stats.bootstrap import Resamples

MOST_EFFECTS, LEAST_EFFECTS = DRAWN, 2
PURPOSE = 2


@dataclass(frozen=True, eq=False)
class Failures:
    """Counterexamples of a predicate; `resting`: of the silent ones, those where the head rests; `unexplained`: part of
    all contribution; `no_effect`: of a sample that was ablated, the rows that lost nothing."""

    silent: Group
    resting: int
    unpredicted: Group
    unexplained: float
    no_effect: Group


def trial_rows(rows: HeldOutRows) -> HeldOutRows:
    """The windows that experiments use: the first ones, up to SELECT_TOKENS."""
    n = max(1, SELECT_TOKENS // rows.ids.shape[1])
    return rows if len(rows.ids) <= n else rows.take(np.arange(n))


class Trial:
    """One head on the select rows of one domain."""

    def __init__(self, subject: Subject, domain: Domain) -> None:
        if domain not in subject.data.select:
            raise BadInput(f"there are no rows of {domain}; there are {', '.join(sorted(subject.data.select))}")
        self.subject, self.domain = subject, domain
        self.rows = trial_rows(subject.data.select[domain])
        self.pairs = PredictedPairs(self.rows, subject.data.table)

    @cached_property
    def truth(self) -> HeadTruth:
        """One run over the rows, unless they are kept from an earlier trial."""
        model, head, data = self.subject.model, self.subject.head, self.subject.data
        return data.kept.get((head, self.domain), lambda: HeadTruth.of(model, self.rows, head, data.batch_size))

    @cached_property
    def a(self) -> Float[np.ndarray, "window dst src"]:
        """Part of each row's contribution off the sink; 0 for other pairs and in rows that have no shares."""
        scored = self.rows.sources[:, None, :] & self.valid[:, :, None]
        return np.asarray(np.tril(self.truth.a * scored), np.float32)

    @cached_property
    def valid(self) -> Bool[np.ndarray, "window dst"]:
        return self.truth.valid

    @cached_property
    def contribution(self) -> Float[np.ndarray, "window dst"]:
        """Of each row, off the sink; residual-stream norm."""
        return np.asarray(self.truth.contribution.sum(-1), np.float64)

    # -- scores ----------------------------------------------------------------------------------------------

    def score(self, predicate: str) -> Score | Unscored:
        """The predicate's score on these rows. Raises PredicateError."""
        resamples = Resamples.of(self.rows.n_documents, self.subject.data.seed)
        if self.pairs.only_sink(predicate):
            sums = tally_first_token(self.subject.model, self.rows, self.subject.data.batch_size)
            return score_first_token(sums, self.subject.head, resamples, self.domain)
        names = list(dict.fromkeys([predicate, *POSITIONAL_RIVALS.values(), *GENERIC.values()]))
        index = {name: place for place, name in enumerate(names)}
        contest = Contest(
            own=0,
            rivals={name: index[p] for name, p in POSITIONAL_RIVALS.items()},
            others={},
            donors=(),
            generic=tuple(index[p] for p in GENERIC.values() if p != predicate),
        )
        masks = self.pairs.masks(names)
        found, shared = HeadTallies(self.truth.tally(masks), 0), overlap(masks)
        return score_predicate(found, found, contest, Overlap(shared, shared), resamples, self.domain)

    # -- counterexamples -------------------------------------------------------------------------------------

    def failures(self, predicate: str) -> Failures:
        """The three kinds of counterexamples. Raises PredicateError."""
        mask = self.pairs.mask(predicate)
        named, hit = mask.any(-1), np.where(mask, self.a, 0)
        silent = named & (~self.valid | (hit.sum(-1) <= THETA_LOW))
        covered = float(np.where(mask, self.truth.contribution, 0).sum())
        everything = float(self.contribution.sum())
        active = self.a.max(-1) >= THETA_HIGH
        return Failures(
            self.drawn(silent, int(named.sum())),
            int((silent & ~self.valid).sum()),
            self._heaviest(np.where(mask, 0, self.a), int(active.sum())),
            1 - covered / everything if everything > 0 else float("nan"),
            self._without_effect(hit.max(-1) >= THETA_HIGH),
        )

    def effects(self, window: Int[np.ndarray, " row"], dst: Int[np.ndarray, " row"]) -> Float[np.ndarray, " row"]:
        """KL at destinations when the head's z there becomes its mean, nats."""
        n, head = len(dst), self.subject.head
        z = np.tile(self.subject.z_mean, (n, 1))
        changes = RowChanges(window, dst, np.full(n, head.layer), np.full(n, head.index), z)
        found = np.zeros(n)

        def read(numbers: Int[np.ndarray, " part"], before: torch.Tensor, after: torch.Tensor) -> None:
            found[numbers] = kl_divergence(before, after).double().cpu().numpy()

        run_changes(self.subject.model, np.asarray(self.rows.ids), changes, self.subject.data.batch_size, read)
        return found

    def _without_effect(self, right: Bool[np.ndarray, "window dst"]) -> Group:
        """Of a sample of the rows in the right place, those that lose nothing."""
        n = int(np.clip(EFFECT_TOKENS // (2 * self.rows.ids.shape[1]), LEAST_EFFECTS, MOST_EFFECTS))
        group = self.drawn(right, n)
        window, dst = group.window[:n], group.dst[:n]
        weak = self.effects(window, dst) < MIN_KL
        return Group(window[weak], dst[weak], len(dst))

    def drawn(self, where: Bool[np.ndarray, "window dst"], of: int = 0) -> Group:
        """All places, in a seeded order that takes documents in turns."""
        return drawn(where, self.rows.documents, self.subject.rng(PURPOSE), of)

    def _heaviest(self, missed: Float[np.ndarray, "window dst src"], of: int) -> Group:
        """Places with a source of at least .3 in `missed`, the largest contribution first; a first one of every
        document and of every pair of tokens before any second one."""
        window, dst = np.nonzero(missed.max(-1) >= THETA_HIGH)
        ids, documents = self.rows.ids, [(int(d),) for d in self.rows.documents[window]]
        src = missed[window, dst].argmax(-1)
        tokens = list(zip(ids[window, dst].tolist(), ids[window, src].tolist(), strict=True))
        return heaviest(window, dst, self.contribution[window, dst], (documents, tokens), of)
