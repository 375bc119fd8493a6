"""Explanation-conditioned ablation: does the model depend on just what the description names? (rule 12)

1. Per head, `conditional_cases` chooses and matches the rows for the description and for a shuffled one.
2. The rows of all heads run together, the changed position only (`model.one_position`).
3. Outcomes at the destination: KL(original || ablated) and log p(next) lost, nats; where a sign is claimed, the centred
   logit of the attended source's token with the head minus without.
4. E_1 and E_0 with their difference, the share of the head's whole effect that the predicted pairs carry, and the share
   of cases with the claimed sign, each over the same document resamples; one rule says "causally supported".

The pair level decides unless more than half of the predicted pairs have no match (`no_matched_pairs`, normal for a
description that names nearly all strong pairs); then the destination level does. A description that names a source for
(nearly) every destination leaves nothing to compare with there (`always_active`): E_1 itself must exceed 1e-4 nats.
(Natural-language explanations with high scores and little causal efficacy: arXiv 2309.10312.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from autointerp.evidence.effects import kl_divergence
from autointerp.model import LanguageModel
from autointerp.model.one_position import RowChanges, run_changes
from autointerp.records import Head, Score, Unscored
from autointerp.scoring.conditional_cases import Cases, Plan, Planner
from autointerp.scoring.conditional_effects import ConditionalResult, Outcomes, description_effects
from autointerp.scoring.head_values import ExplainMeans, HeadValues, RowFacts, layer_values
from autointerp.scoring.held_out import HeldOutRows
from autointerp.stats.bootstrap import Resamples

SCORER = "conditional_ablation"
ROWS, DRAWS, SHARE = 40, 5, 3  # the share of the described effect is taken over SHARE times the rows
CHEAP = 20_000_000  # parameters up to which the resample variant runs unasked
LOGIT_CELLS = 8_000_000
WAITING_ROWS = 150_000  # rows planned before they are run together
SIGNS = {"copying": 1, "name_mover": 1, "induction": 1, "copy_suppression": -1}
Progress = Callable[[str, int, int], None]


def claimed_sign(label: str) -> int:
    """What a label says of the attended token's own logit: +1 raises it, -1 lowers it, 0 says nothing."""
    return SIGNS.get(label, 0)


@dataclass(frozen=True, eq=False)
class Claim:
    """A description as this scorer needs it: its predicted pairs off the sink, those of another head's description
    (None: no such control), and the claimed sign on the attended token."""

    mask: Bool[np.ndarray, "window dst src"]
    shuffled: Bool[np.ndarray, "window dst src"] | None = None
    sign: int = 0


@dataclass(frozen=True, eq=False)
class ConditionalSpec:
    """Rows to test on, what replaces what is removed, and the budget.

    `rows`: rows a condition · `draws`: values of other documents for each pair (None: 5 for small models, else 0).
    """

    model: LanguageModel
    held_out: HeldOutRows
    means: ExplainMeans
    seed: int
    rows: int = ROWS
    draws: int | None = None
    batch_size: int = 8


def score_conditional(
    spec: ConditionalSpec, heads: Sequence[Head], claim_of: Callable[[Head], Claim], progress: Progress | None = None
) -> dict[Head, Score | Unscored]:
    """Score the descriptions of `heads`; claims are asked for layer by layer."""
    found: dict[Head, Score | Unscored] = {}
    for head, result in conditional_results(spec, heads, claim_of, progress).items():
        found[head] = result if isinstance(result, Unscored) else result.score(spec.held_out.domain)
    return found


def conditional_results(
    spec: ConditionalSpec, heads: Sequence[Head], claim_of: Callable[[Head], Claim], progress: Progress | None = None
) -> dict[Head, ConditionalResult | Unscored]:
    """`score_conditional` before it becomes a record."""
    facts = RowFacts.of(spec.model, spec.held_out, spec.batch_size)
    resamples = Resamples.of(spec.held_out.n_documents, spec.seed)
    layers = sorted({head.layer for head in heads})
    found: dict[Head, ConditionalResult | Unscored] = {}
    waiting: dict[tuple[Head, str], Plan] = {}
    claims: dict[Head, int] = {}

    def run_waiting() -> None:
        found.update(_results(spec, facts, waiting, claims, resamples))
        waiting.clear()

    for number, values in enumerate(layer_values(spec.model, spec.held_out, spec.means, layers, spec.batch_size), 1):
        for value in [v for v in values if v.head in set(heads)]:
            claim = claim_of(value.head)
            claims[value.head] = claim.sign
            waiting |= _plans(spec, value, facts, claim)
            if not claim.mask.any():
                found[value.head] = Unscored(scorer=SCORER, reason="the description names no pair off the sink there")
        if sum(len(c) for plan in waiting.values() for c in plan.cases.values()) > WAITING_ROWS:
            run_waiting()
        if progress is not None:
            progress("choosing rows to ablate", number, len(layers))
    run_waiting()
    return {head: found[head] for head in heads}


def _plans(spec: ConditionalSpec, value: HeadValues, facts: RowFacts, claim: Claim) -> dict[tuple[Head, str], Plan]:
    if not claim.mask.any():
        return {}
    planner, signed = Planner(value, spec.held_out, facts, spec.seed, spec.rows), claim.sign != 0
    found = {
        (value.head, "own"): planner.plan(claim.mask, signed=signed, draws=_draws(spec), share_rows=SHARE * spec.rows)
    }
    if claim.shuffled is not None and claim.shuffled.any():
        found[value.head, "shuffled"] = planner.plan(claim.shuffled, signed=signed, draws=0, share_rows=spec.rows)
    return found


def _results(
    spec: ConditionalSpec,
    facts: RowFacts,
    plans: Mapping[tuple[Head, str], Plan],
    signs: Mapping[Head, int],
    resamples: Resamples,
) -> dict[Head, ConditionalResult]:
    outcomes = run_cases(spec, facts, {(*key, n): c for key, plan in plans.items() for n, c in plan.cases.items()})
    effects = {
        key: description_effects(plan, {name: outcomes[(*key, name)] for name in plan.cases}, signs[key[0]], resamples)
        for key, plan in plans.items()
    }
    return {
        head: ConditionalResult(effects[head, "own"], effects.get((head, "shuffled")))
        for head, kind in plans
        if kind == "own"
    }


def _draws(spec: ConditionalSpec) -> int:
    if spec.draws is not None:
        return spec.draws
    parameters = sum(p.numel() for p in spec.model.bridge.original_model.parameters())
    return DRAWS if parameters <= CHEAP else 0


def run_cases(
    spec: ConditionalSpec, facts: RowFacts, cases: Mapping[tuple[Head, str, str], Cases]
) -> dict[tuple[Head, str, str], Outcomes]:
    """Run all cases together; outcomes under the same keys, the head first in each."""
    keys = [key for key, part in cases.items() if len(part)]
    if not keys:
        return {key: Outcomes.empty() for key in cases}
    sizes = [len(cases[key]) for key in keys]
    joined = {
        name: np.concatenate([getattr(cases[key], name) for key in keys]) for name in ("window", "dst", "z", "token")
    }
    layer, index = (np.repeat([getattr(key[0], name) for key in keys], sizes) for name in ("layer", "index"))
    changes = RowChanges(joined["window"], joined["dst"], layer, index, joined["z"])
    followed = np.stack([facts.next_id[changes.window, changes.dst], joined["token"]])
    out = np.full((3, len(changes)), np.nan)

    def read(rows: Int[np.ndarray, " part"], before: Tensor, after: Tensor) -> None:
        out[:, rows] = _outcome(before, after, followed[:, rows])

    batch = max(8, min(256, LOGIT_CELLS // spec.model.d_vocab))
    run_changes(spec.model, spec.held_out.ids, changes, batch, read)
    bounds = np.cumsum(sizes)[:-1]
    documents = spec.held_out.documents[changes.window]
    parts = dict(zip(keys, zip(*(np.split(a, bounds, axis=-1) for a in (out, documents)), strict=True), strict=True))
    return {k: Outcomes(parts[k][1], *parts[k][0]) if k in parts else Outcomes.empty() for k in cases}


def _outcome(before: Tensor, after: Tensor, followed: Int[np.ndarray, "2 row"]) -> Float64[np.ndarray, "3 row"]:
    """KL, log p(next) lost, centred logit of the followed token lost; NaN where there is no such token."""
    lost = before - after
    tokens = torch.from_numpy(followed).to(lost.device)
    picked = lost.gather(1, tokens.clamp_min(0).T).T  # [2 row]
    picked = torch.stack([picked[0], picked[1] - lost.mean(1)])
    picked = torch.where(tokens >= 0, picked, torch.nan)
    return torch.cat([kl_divergence(before, after)[None], picked]).double().cpu().numpy()
