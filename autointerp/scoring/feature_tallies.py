"""Counts of named against active rows, for neurons and latents and every predicate, by document.

Positive: share >= ACTIVE, negative: share <= RESTING, between: left out of the classification, kept in the sums that a
correlation needs. All rows are there, so negatives have their natural weight. Two tiers beside it: resting rows whose
token is that of some active row (T1), and resting rows where one of the units most like it is active (T2).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int
from torch import Tensor

from autointerp.feature_records import ACTIVE, RESTING
from autointerp.scoring.contest import Sums
from autointerp.scoring.feature_rows import scored
from autointerp.scoring.held_out import HeldOutRows

OF_PREDICATE = ("tp", "fp", "predicted_a", "covered", "fp_same_token", "fp_neighbour", "predicted")
OF_UNIT = (
    "positives", "negatives", "sum_a", "contribution", "same_token", "neighbour", "pairs", "sum_aa", "mass_positive",
)  # fmt: skip
CELLS = 24_000_000


@dataclass(frozen=True, eq=False)
class UnitActivity:
    """Shares of some units on a split, and where the units most like each are active (None: not known)."""

    held_out: HeldOutRows
    shares: Float32[np.ndarray, "feature window pos"]
    alike: Bool[np.ndarray, "feature window pos"] | None = None

    @cached_property
    def quantities(self) -> Float32[np.ndarray, "quantity feature window pos"]:
        """What is summed where a predicate holds, in the order of OF_PREDICATE."""
        rows = scored(self.held_out)
        a = np.where(rows, np.maximum(self.shares, 0), 0)
        resting = rows & (a <= RESTING)
        alike = np.zeros_like(resting) if self.alike is None else self.alike
        found = (
            rows & (a >= ACTIVE), resting, a, np.where(a > RESTING, a, 0), resting & self._same_token(a >= ACTIVE),
            resting & alike, np.broadcast_to(rows, a.shape),
        )  # fmt: skip
        return np.stack([part.astype(np.float32) for part in found])

    def _same_token(self, active: Bool[np.ndarray, "feature window pos"]) -> Bool[np.ndarray, "feature window pos"]:
        ids = self.held_out.ids
        return np.stack([np.isin(ids, np.unique(ids[one])) for one in active])


@dataclass(frozen=True, eq=False)
class PositionTallies:
    """Sums by document: `by_predicate` in the order of OF_PREDICATE, `by_unit` in that of OF_UNIT. `own` holds sums of
    a further predicate that differs by unit (the token-identity rival), numbered after the others."""

    by_predicate: Float64[np.ndarray, "quantity feature predicate doc"]
    by_unit: Float64[np.ndarray, "quantity feature doc"]
    own: Float64[np.ndarray, "quantity feature doc"] | None = None


@dataclass(frozen=True, eq=False)
class UnitTallies:
    """One unit's part of the tallies."""

    tallies: PositionTallies
    feature: int

    def of(self, predicate: int) -> Sums:
        found = self.tallies
        if predicate < found.by_predicate.shape[2]:
            values = found.by_predicate[:, self.feature, predicate]
        else:
            assert found.own is not None
            values = found.own[:, self.feature]
        return with_totals(values, found.by_unit[:, self.feature])


def with_totals(values: Float64[np.ndarray, "quantity doc"], totals: Float64[np.ndarray, "unit_quantity doc"]) -> Sums:
    """Sums under the names that a contest reads."""
    found: Sums = dict(zip(OF_PREDICATE, values, strict=True)) | dict(zip(OF_UNIT, totals, strict=True))
    return found | {"fp_natural": found["fp"]}


def tally(activity: UnitActivity, masks: Bool[np.ndarray, "predicate window pos"]) -> PositionTallies:
    """Every unit with every predicate."""
    quantities = activity.quantities
    n_quantities, n_features = quantities.shape[:2]
    stacked = torch.from_numpy(quantities).flatten(0, 1).transpose(0, 1)  # [window unit pos]
    named = torch.from_numpy(masks).permute(1, 2, 0)
    documents = torch.from_numpy(activity.held_out.documents.astype(np.int64))
    found = torch.zeros(activity.held_out.n_documents, len(quantities) * n_features, len(masks), dtype=torch.float64)
    step = max(1, CELLS // max(1, found[0].numel()))
    for start in range(0, len(documents), step):
        part = slice(start, start + step)
        found.index_add_(0, documents[part], torch.bmm(stacked[part], named[part].float()).double())
    by_predicate = found.reshape(-1, n_quantities, n_features, len(masks)).permute(1, 2, 3, 0).numpy()
    return PositionTallies(by_predicate, _totals(activity, quantities))


def tally_each(
    activity: UnitActivity, masks: Bool[np.ndarray, "feature window pos"]
) -> tuple[Float64[np.ndarray, "quantity feature doc"], Float64[np.ndarray, "unit_quantity feature doc"]]:
    """Every unit with a predicate of its own: sums in the orders of OF_PREDICATE and OF_UNIT."""
    quantities = activity.quantities
    return _by_document(activity.held_out, quantities * masks), _totals(activity, quantities)


def tallied_totals(quantities: Float64[np.ndarray, "quantity row"]) -> dict[str, float]:
    """Sums of one unit over all rows, under the names of OF_UNIT."""
    a = quantities[2]
    return dict(zip(OF_UNIT, [*map(float, quantities.sum(1)), float(a @ a), float(a @ quantities[0])], strict=True))


def _totals(
    activity: UnitActivity, quantities: Float32[np.ndarray, "quantity feature window pos"]
) -> Float64[np.ndarray, "unit_quantity feature doc"]:
    a = quantities[2]
    more = np.stack([a * a, a * quantities[0]])
    return _by_document(activity.held_out, np.concatenate([quantities, more]))


def _by_document(
    held_out: HeldOutRows, values: Float32[np.ndarray, "quantity feature window pos"]
) -> Float64[np.ndarray, "quantity feature doc"]:
    by_window = torch.from_numpy(values.sum(-1, dtype=np.float64))
    found = torch.zeros(*values.shape[:2], held_out.n_documents, dtype=torch.float64)
    documents: Int[Tensor, " window"] = torch.from_numpy(held_out.documents.astype(np.int64))
    return np.asarray(found.index_add_(2, documents, by_window).numpy())
