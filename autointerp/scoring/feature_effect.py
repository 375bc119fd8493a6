"""Effect of neurons and latents, read by an LLM: what do next tokens gain while the unit is active?

1. Up to ten held-out rows where the unit is active, one a document. Its activation there is replaced by its mean on
   the explain split; the centred logit that each token loses is what the unit does (later layers included).
2. Ten candidates a row, asked and scored as for heads (`effect`): five that change most, up and down, and five of the
   same frequencies that change little.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from autointerp.model import LanguageModel, UnitSite
from autointerp.model.one_position import run_additions
from autointerp.model.row_changes import UnitRows, unit_additions
from autointerp.records import Feature, Unscored
from autointerp.scoring.effect import MIN_ROWS, N_ROWS, Effect, EffectItems
from autointerp.scoring.effect_rows import (
    N_CANDIDATES,
    N_STRONG,
    CandidatePool,
    Change,
    EffectRow,
    active_places,
    choose_candidates,
)
from autointerp.scoring.feature_items import feature_states
from autointerp.scoring.held_out import HeldOutRows

SMALLEST = 2e-3  # logits; a unit that changes no token of the pool by more does nothing that could be described
BEFORE = 40
NOTHING = Change(0.0, ())


class Units(Protocol):
    """What measuring asks of a set of units."""

    @property
    def sites(self) -> tuple[UnitSite, ...]: ...
    def place(self, feature: Feature) -> tuple[int, int]: ...


@dataclass(frozen=True)
class Activations:
    """One unit on the held-out rows: its share of the reference at every position, and how to get back to what the
    model computes: `activation = sign * reference * share`, and the mean of that on the explain split."""

    share: Float[np.ndarray, "window pos"]
    reference: float
    sign: int
    mean: float

    def amount(self, window: int, dst: int) -> float:
        """What must be added to the activation for it to be its mean."""
        return self.mean - self.sign * self.reference * float(self.share[window, dst])


class FeatureEffect(Effect):
    """Asks the LLM; all settings change replies."""

    TEMPLATE: ClassVar[str] = "effect_feature"
    UNIT: ClassVar[str] = "unit"
    TOO_FEW: ClassVar[str] = "held-out documents have a row where the unit is active and changes the next token"

    def _view(self, number: int, row: EffectRow) -> dict[str, Any]:
        tokens = [self.strings[int(i)] for i in self.held_out.ids[row.window, : row.dst + 1]]
        return {
            "item": number,
            "before": "".join(tokens[max(0, row.dst - BEFORE) : row.dst]),
            "token": tokens[row.dst],
            "candidates": [self.strings[i] for i in row.candidates],
        }


@dataclass(frozen=True)
class EffectSpec:
    """How rows are drawn and measured."""

    pool: CandidatePool
    seed: int
    batch_size: int


def feature_effect_rows(
    model: LanguageModel,
    units: Units,
    test: HeldOutRows,
    activations: Mapping[Feature, Activations],
    spec: EffectSpec,
) -> dict[Feature, EffectItems]:
    """Up to ten rows a unit, in seeded order; all units' rows are run together. ModelError passes through."""
    planned = [
        _Planned(feature, window, dst)
        for feature, held in activations.items()
        for window, dst in active_places(test, feature_states(held.share, test), _generator(spec, feature), N_ROWS)
    ]
    found: dict[_Planned, EffectRow] = {}
    if planned:
        _measure(model, units, test, activations, spec, planned, found)
    rows = {f: [found[p] for p in planned if p.feature == f and p in found] for f in activations}
    return {feature: own if len(own) >= MIN_ROWS else _too_few(len(own)) for feature, own in rows.items()}


@dataclass(frozen=True)
class _Planned:
    feature: Feature
    window: int
    dst: int


def _generator(spec: EffectSpec, feature: Feature, *more: int) -> np.random.Generator:
    return np.random.default_rng([spec.seed, feature.layer, feature.index, *more])


def _too_few(n: int) -> Unscored:
    return Unscored(scorer="effect", reason=f"only {n} {FeatureEffect.TOO_FEW}; {MIN_ROWS} are needed")


def _measure(
    model: LanguageModel,
    units: Units,
    test: HeldOutRows,
    activations: Mapping[Feature, Activations],
    spec: EffectSpec,
    planned: Sequence[_Planned],
    into: dict[_Planned, EffectRow],
) -> None:
    """Runs all rows with the unit at its mean; the changes of a row are kept for its candidates only."""
    places = np.array([units.place(p.feature) for p in planned], dtype=np.int64)
    amounts = [activations[p.feature].amount(p.window, p.dst) for p in planned]
    windows, dst = (
        np.array(values, dtype=np.int64) for values in zip(*[(p.window, p.dst) for p in planned], strict=True)
    )
    rows = UnitRows(windows, dst, places[:, 0], places[:, 1], np.array(amounts, dtype=np.float32))
    wanted = torch.from_numpy(spec.pool.ids).to(model.device)

    def read(numbers: Int[np.ndarray, " part"], before: Tensor, after: Tensor) -> None:
        lost = (before - after).float()
        lost = (lost - lost.mean(-1, keepdim=True))[:, wanted.to(lost.device)]
        for number, changes in zip(numbers.tolist(), lost.double().cpu().numpy(), strict=True):
            row = _row(planned[number], changes, test, spec)
            if row is not None:
                into[planned[number]] = row

    run_additions(model, test.ids, unit_additions(model, units.sites, rows), spec.batch_size, read)


def _row(
    planned: _Planned, changes: Float[np.ndarray, " token"], test: HeldOutRows, spec: EffectSpec
) -> EffectRow | None:
    """None where the unit changes nothing, or where the pool has no ten candidates."""
    if not np.abs(changes).max(initial=0.0) >= SMALLEST:
        return None
    rng = _generator(spec, planned.feature, planned.window)
    chosen = choose_candidates(changes, spec.pool, rng)
    if chosen is None:
        return None
    order = rng.permutation(N_CANDIDATES)
    places = chosen[order]
    return EffectRow(
        window=planned.window,
        document=int(test.documents[planned.window]),
        dst=planned.dst,
        src=planned.dst,
        candidates=tuple(spec.pool.ids[places].tolist()),
        changes=tuple(changes[places].tolist()),
        strong=tuple((order < N_STRONG).tolist()),
        source=NOTHING,
    )
