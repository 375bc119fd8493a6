"""The scorers that look inside the head, over all claims of one domain: conditional ablation, patching, probes.

The claims of a domain share their test rows (one window a document first), the mean values of the explain split, and
their shuffled control: another description of the run whose predicted pairs have IoU < .5 with a head's own on select,
or one of our generic descriptions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from autointerp.evidence.collect import first_windows
from autointerp.model import LanguageModel
from autointerp.predicate import TokenTable
from autointerp.records import Head, Score, Unscored
from autointerp.scoring.conditional import Claim, ConditionalSpec, claimed_sign, score_conditional
from autointerp.scoring.head_values import ExplainMeans
from autointerp.scoring.held_out import HeldOutRows
from autointerp.scoring.patch_edits import PatchSpec
from autointerp.scoring.patching import PatchClaim, score_patching
from autointerp.scoring.predicate_score import TWIN
from autointerp.scoring.predicted import GENERIC, PredictedPairs, overlap
from autointerp.scoring.probes import PROBE, score_probes

WINDOWS = 96
PATCH_ROWS = 10
CONDITIONAL, PATCHING = "conditional_ablation", "patching"
INSIDE = frozenset({CONDITIONAL, PATCHING, PROBE})
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class CausalSpec:
    """What the causal scorers need of one domain. `pool`: ordinary ids of the text, for edits."""

    model: LanguageModel
    select: HeldOutRows
    test: HeldOutRows
    means: ExplainMeans
    pool: Int[np.ndarray, " id"]
    table: TokenTable
    seed: int
    batch_size: int


@dataclass(frozen=True)
class CausalClaim:
    """A description's predicate, and its label, which may say what happens to the attended token."""

    predicate: str
    label: str


class CausalScorers:
    """Scores the claims of one domain."""

    def __init__(self, spec: CausalSpec, claims: Mapping[Head, CausalClaim], donors: list[str]) -> None:
        """`donors`: predicates of the run in seeded order, from which shuffled controls are taken."""
        self._spec = spec
        self._rows = spec.test.take(first_windows(spec.test.documents, WINDOWS))
        self._pairs = PredictedPairs(self._rows, spec.table)
        # What rests on the first position has no pair off the sink to remove.
        self._claims = {h: c for h, c in claims.items() if not self._pairs.only_sink(c.predicate)}
        names = list(dict.fromkeys([*donors, *GENERIC.values(), *(c.predicate for c in self._claims.values())]))
        self._names = {name: number for number, name in enumerate(names)}
        self._donors = [*donors, *GENERIC.values()]
        self._alike = overlap(PredictedPairs(spec.select, spec.table).masks(names)) if self._claims else None

    def conditional(self, progress: Progress) -> dict[Head, Score | Unscored]:
        """Explanation-conditioned ablation of every claim."""
        spec = ConditionalSpec(
            self._spec.model, self._rows, self._spec.means, self._spec.seed, batch_size=self._spec.batch_size
        )
        if not self._claims:
            return {}
        return score_conditional(spec, sorted(self._claims), self._claim, progress)

    def patching(self) -> dict[Head, Score | Unscored]:
        """The patching check of every claim."""
        if not self._claims:
            return {}
        s = self._spec
        spec = PatchSpec(
            s.model, self._rows, s.means, s.table, s.pool, s.seed, rows=PATCH_ROWS, batch_size=s.batch_size
        )
        return score_patching(
            spec,
            {
                head: PatchClaim(claim.predicate, self._shuffled(claim.predicate), claimed_sign(claim.label))
                for head, claim in self._claims.items()
            },
        )

    def probes(self, progress: Progress) -> dict[Head, Score | Unscored]:
        """Whether the heads' outputs carry the tokens that their descriptions name."""
        claims = {head: claim.predicate for head, claim in self._claims.items()}
        return score_probes(self._spec.model, self._pairs, claims, self._spec.seed, progress)

    def _claim(self, head: Head) -> Claim:
        claim = self._claims[head]
        other = self._shuffled(claim.predicate)
        mask = None if other is None else self._pairs.mask(other)
        return Claim(self._pairs.mask(claim.predicate), mask, claimed_sign(claim.label))

    def _shuffled(self, predicate: str) -> str | None:
        """The first donor that is no twin on select and predicts something here."""
        assert self._alike is not None
        near = self._alike[self._names[predicate]]
        return next(
            (d for d in self._donors if d != predicate and near[self._names[d]] < TWIN and self._pairs.mask(d).any()),
            None,
        )
