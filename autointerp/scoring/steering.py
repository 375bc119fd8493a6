"""Steering: do the tokens that a description says a unit promotes rise where its direction is added?

1. Rows of held-out text drawn at random, one a document first, among those where the unit rests.
2. At such a row, `strength * reference * direction` is added where the unit writes. A row's value is the centred logit
   change of the claimed tokens minus that of tokens as frequent as these, raised ones counted up and lowered ones down.
3. The strength with the highest mean on select rows is used on test rows; the whole curve stands beside it.
4. Nulls, on the same rows and document resamples: random directions of the same norm in the residual stream, and
   under the unit's own direction the tokens that other descriptions claim and random ones as frequent. Every direction
   moves every token somewhere, so the highest of each null must be beaten, not its mean.

A value of 0 is chance. It says what a unit can do when it is driven, not that the model uses it so: that is asked by
ablation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int
from torch import Tensor

from autointerp.feature_records import RESTING
from autointerp.model.one_position import run_additions
from autointerp.records import Control, Feature, Score, Unscored
from autointerp.scoring.conditional_cases import spread
from autointerp.scoring.controls import compared
from autointerp.scoring.effect_rows import CandidatePool
from autointerp.scoring.feature_rows import Reading, scored
from autointerp.scoring.held_out import HeldOutRows
from autointerp.scoring.steering_directions import RANDOM, Directions, Job, SteeredRows
from autointerp.scoring.unit_outcomes import LOGIT_CELLS, Claimed
from autointerp.stats.bootstrap import Resamples, interval

SCORER = "steering"
Split = Literal["select", "test"]
STRENGTHS = (1.0, 2.0, 4.0, 8.0)
SELECT_ROWS, TEST_ROWS = 12, 36
DONORS, DRAWS = 8, 12  # token lists of other descriptions, and random ones
NEAREST = 200  # tokens, of about one frequency, that are drawn from
MATCHED = 8  # tokens as frequent, for each claimed one
MIN_DOCUMENTS = 30


@dataclass(frozen=True, eq=False)
class _Tokens:
    """Weights over the vocabulary: a row's value is the weighted sum of logit changes. They add up to 0."""

    ids: Int[np.ndarray, " token"]
    weights: Float64[np.ndarray, " token"]


@dataclass(frozen=True, eq=False)
class SteeringSpec:
    """Rows of both splits; the claimed tokens of the units that claim any."""

    reading: Reading
    select: HeldOutRows
    test: HeldOutRows
    claimed: Mapping[Feature, Claimed]
    seed: int


class Steering:
    """Steers all units of a run."""

    def __init__(self, spec: SteeringSpec) -> None:
        self._spec, model = spec, spec.reading.model
        self._pool = CandidatePool.of(model, [spec.select, spec.test])
        self._resamples = Resamples.of(spec.test.n_documents, spec.seed)
        self._near: dict[int, Int[np.ndarray, " token"]] = {}
        self._tokens = {f: self._against(f, claim, 0) for f, claim in spec.claimed.items() if len(claim)}

    def score(
        self, features: Sequence[Feature], resting: Mapping[Split, Bool[np.ndarray, "feature window pos"]]
    ) -> dict[Feature, Score | Unscored]:
        """Scores of some units; `resting`: where each rests, by split."""
        found: dict[Feature, Score | Unscored] = {}
        rows: dict[Feature, tuple[SteeredRows, SteeredRows]] = {}
        for number, feature in enumerate(features):
            if feature not in self._tokens:
                found[feature] = Unscored(scorer=SCORER, reason=_why(self._spec.claimed.get(feature)))
                continue
            rows[feature] = (
                self._draw(self._spec.select, resting["select"][number], feature, SELECT_ROWS),
                self._draw(self._spec.test, resting["test"][number], feature, TEST_ROWS),
            )
            if not (len(rows[feature][0].dst) and len(rows[feature][1].dst)):
                del rows[feature]
                found[feature] = Unscored(scorer=SCORER, reason="it rests in no held-out row")
        if rows:
            found |= self._steered(rows)
        return found

    def _steered(self, rows: Mapping[Feature, tuple[SteeredRows, SteeredRows]]) -> dict[Feature, Score | Unscored]:
        directions = Directions(self._spec.reading, list(rows), self._spec.seed)
        tries = [Job(f, select, 0, s) for f, (select, _) in rows.items() for s in STRENGTHS]
        best: dict[Feature, tuple[float, float]] = {}
        for job, values in self._run(self._spec.select, tries, directions, {}):
            best[job.feature] = max(best.get(job.feature, (-np.inf, 0.0)), (float(values[0].mean()), job.strength))
        chosen = {f: strength for f, (_, strength) in best.items()}
        jobs = [Job(f, test, 0, s) for f, (_, test) in rows.items() for s in STRENGTHS]
        jobs += [Job(f, test, k, chosen[f]) for f, (_, test) in rows.items() for k in range(1, RANDOM + 1)]
        others = {f: self._others(f) for f in rows}
        curves: dict[Feature, dict[float, np.ndarray]] = {f: {} for f in rows}
        random: dict[Feature, list[np.ndarray]] = {f: [] for f in rows}
        for job, values in self._run(self._spec.test, jobs, directions, others):
            if job.direction:
                random[job.feature].append(values[0])
            else:
                curves[job.feature][job.strength] = values
        return {f: self._score(f, rows[f][1], curves[f], random[f], chosen[f]) for f in rows}

    def _run(
        self,
        held_out: HeldOutRows,
        jobs: Sequence[Job],
        directions: Directions,
        others: Mapping[Feature, Sequence[_Tokens]],
    ) -> Iterator[tuple[Job, Float64[np.ndarray, "tokens row"]]]:
        """Each job's values at its rows: of the own tokens, then of the others."""
        model = self._spec.reading.model
        sizes = [len(job.rows.dst) for job in jobs]
        lists = [[self._tokens[job.feature], *others.get(job.feature, ())] for job in jobs]
        out = np.full((max(map(len, lists)), sum(sizes)), np.nan)
        owner = np.repeat(np.arange(len(jobs)), sizes)
        packed = _pack(lists)

        def read(rows: Int[np.ndarray, " part"], before: Tensor, after: Tensor) -> None:
            gained = after - before
            ids, weights = (torch.from_numpy(a[owner[rows]]).to(gained.device) for a in packed)
            picked = gained.gather(1, ids.flatten(1)).reshape(ids.shape)
            out[:, rows] = (picked * weights).sum(-1).double().cpu().numpy().T

        batch = max(8, min(256, LOGIT_CELLS // model.d_vocab))
        run_additions(model, held_out.ids, directions.additions(jobs), batch, read)
        for job, listed, values in zip(jobs, lists, np.split(out, np.cumsum(sizes)[:-1], axis=1), strict=True):
            yield job, values[: len(listed)]

    def _score(
        self,
        feature: Feature,
        rows: SteeredRows,
        curve: Mapping[float, Float64[np.ndarray, "tokens row"]],
        random: Sequence[Float64[np.ndarray, " row"]],
        chosen: float,
    ) -> Score:
        own, others = curve[chosen][0], curve[chosen][1:]
        drawn = self._resampled(rows, [own, *random, *others])
        value, (low, high) = float(own.mean()), interval(drawn[0])
        controls: list[Control] = []
        first = 1 + len(random)
        for name, values, of_values in (
            ("random directions of the same norm", np.stack(random), drawn[1:first]),
            ("other tokens", others, drawn[first:]),
        ):
            if len(values):
                label = f"{name} (highest of {len(values)})"
                controls.append(compared(label, value, float(values.mean(1).max()), drawn[0] - of_values.max(0)))
        n_docs = len(np.unique(rows.documents))
        claim = self._spec.claimed[feature]
        details: dict[str, float | int | str | None] = {
            "strength": chosen, "claimed_tokens": len(claim), "claimed_not_in_vocabulary": claim.missing,
            "claimed_raised": int((claim.signs > 0).sum()), "claimed_lowered": int((claim.signs < 0).sum()),
        }  # fmt: skip
        if chosen == max(curve):
            details["strength_note"] = "the highest that was tried: more may do more"
        details |= {f"logit_change_at_{s:g}": float(values[0].mean()) for s, values in sorted(curve.items())}
        return Score(
            scorer=SCORER, metric="logit_change", domain=self._spec.test.domain, value=value, low=low, high=high,
            n_items=len(own), n_docs=n_docs, prevalence=float("nan"), chance=0.0, controls=tuple(controls),
            state="underpowered" if n_docs < MIN_DOCUMENTS else "", details=details,
        )  # fmt: skip

    def _resampled(self, rows: SteeredRows, several: Sequence[np.ndarray]) -> Float64[np.ndarray, "value resample"]:
        n = self._resamples.counts.shape[1]
        sums = np.stack([np.bincount(rows.documents, values, n) for values in several], -1)
        numbers = np.bincount(rows.documents, minlength=n).astype(float)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray((self._resamples.totals(sums) / self._resamples.totals(numbers)[:, None]).T)

    def _draw(
        self, held_out: HeldOutRows, resting: Bool[np.ndarray, "window pos"], feature: Feature, n: int
    ) -> SteeredRows:
        rng = np.random.default_rng([self._spec.seed, feature.layer, feature.index, n])
        flat = np.flatnonzero(resting & scored(held_out))
        flat = flat if len(flat) <= 20 * n else np.sort(rng.choice(flat, 20 * n, replace=False))
        window, dst = np.divmod(flat, resting.shape[1])
        kept = spread(held_out.documents[window], n, rng)
        return SteeredRows(window[kept], dst[kept], held_out.documents[window[kept]])

    def _against(self, feature: Feature, claim: Claimed, draw: int) -> _Tokens:
        """The claimed tokens, each against tokens as frequent that are not claimed."""
        rng = np.random.default_rng([self._spec.seed, feature.layer, feature.index, draw])
        weights = np.zeros(self._spec.reading.model.d_vocab)
        weights[claim.tokens] = claim.signs / len(claim)
        for token, sign in zip(claim.tokens, claim.signs, strict=True):
            near = self._as_frequent(int(token), claim.tokens, MATCHED, rng)
            weights[near] -= sign / len(claim) / max(len(near), 1)
        ids = np.flatnonzero(weights)
        return _Tokens(ids, weights[ids])

    def _as_frequent(
        self, token: int, but: Int[np.ndarray, " token"], n: int, rng: np.random.Generator
    ) -> Int[np.ndarray, " token"]:
        """Tokens of the text that occur about as often, without those in `but`."""
        bucket = int(self._pool.of_token[token])
        if bucket not in self._near:
            gaps = np.abs(self._pool.bucket - bucket)
            shuffled = np.random.default_rng(self._spec.seed).permutation(len(gaps))
            self._near[bucket] = self._pool.ids[shuffled[np.argsort(gaps[shuffled], kind="stable")[:NEAREST]]]
        near = self._near[bucket]
        free = near[~np.isin(near, but)][: max(4 * n, NEAREST // 4)]
        return np.asarray(rng.permutation(free)[:n])

    def _others(self, feature: Feature) -> list[_Tokens]:
        """Tokens of units that claim none of this one's, in seeded order; then random ones as frequent as its own."""
        rng = np.random.default_rng([self._spec.seed, 1, feature.layer, feature.index])
        claim, others = self._spec.claimed[feature], sorted(self._tokens)
        order = (others[k] for k in rng.permutation(len(others))[: 8 * DONORS])
        apart = [o for o in order if o != feature and not np.isin(self._spec.claimed[o].tokens, claim.tokens).any()]
        found = [self._tokens[o] for o in apart[:DONORS]]
        for draw in range(1, DRAWS + 1):
            drawn: list[int] = []
            for token in claim.tokens:
                but = np.array([*claim.tokens, *drawn])
                drawn += self._as_frequent(int(token), but, 1, rng).tolist()
            if len(drawn) == len(claim):
                found.append(self._against(feature, Claimed(np.array(drawn), claim.signs), draw))
        return found


def resting_rows(shares: Float32[np.ndarray, "feature window pos"]) -> Bool[np.ndarray, "feature window pos"]:
    """Where units rest."""
    return np.asarray(shares <= RESTING)


def _why(claim: Claimed | None) -> str:
    if claim is not None and claim.missing:
        return f"none of the {claim.missing} tokens that the description claims is in the vocabulary"
    return "the description claims no token that rises or falls"


def _pack(
    lists: Sequence[Sequence[_Tokens]],
) -> tuple[Int[np.ndarray, "job list token"], Float32[np.ndarray, "job list token"]]:
    shape = (len(lists), max(map(len, lists)), max(len(t.ids) for tokens in lists for t in tokens))
    ids, weights = np.zeros(shape, np.int64), np.zeros(shape, np.float32)
    for row, tokens in enumerate(lists):
        for column, one in enumerate(tokens):
            ids[row, column, : len(one.ids)] = one.ids
            weights[row, column, : len(one.ids)] = one.weights
    return ids, weights
