"""Which learning rows a unit is not at rest on, and how strongly: sparse, for many units in one forward of the text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int

from autointerp.feature_records import ACTIVE, RESTING
from autointerp.features.activations import Units, used_sites
from autointerp.features.learning_rows import LearningRows
from autointerp.model import LanguageModel, read_units
from autointerp.records import Feature

MAX_ENTRIES = 12_000_000  # (row, unit) pairs held at once


@dataclass(frozen=True, eq=False)
class UnitRows:
    """The rows of one unit above rest, ascending, with its share of the reference there."""

    rows: Int[np.ndarray, " some"]
    share: Float32[np.ndarray, " some"]

    @property
    def active(self) -> Int[np.ndarray, " active"]:
        return self.rows[self.share >= ACTIVE]

    @property
    def between(self) -> Int[np.ndarray, " between"]:
        """Neither active nor at rest."""
        return self.rows[self.share < ACTIVE]


@dataclass(frozen=True)
class Scale:
    """What makes shares of a unit's raw activations: sign over reference."""

    sign: int
    reference: float
    busy: float  # expected share of rows above rest


def read_active_rows(
    model: LanguageModel,
    units: Units,
    scales: dict[Feature, Scale],
    rows: LearningRows,
    batch_size: int,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Iterator[tuple[Feature, UnitRows]]:
    """Each unit of `scales` with its rows, a group of units (as many as fit in memory) at a time."""
    done = 0
    for group in _groups(scales, len(rows)):
        yield from _read(model, units, {feature: scales[feature] for feature in group}, rows, batch_size)
        done += len(group)
        progress(done, len(scales))


def _groups(scales: dict[Feature, Scale], n_rows: int) -> Iterator[list[Feature]]:
    group: list[Feature] = []
    expected = 0.0
    for feature, scale in scales.items():
        cost = max(scale.busy, 1e-3) * n_rows
        if group and expected + cost > MAX_ENTRIES:
            yield group
            group, expected = [], 0.0
        group.append(feature)
        expected += cost
    if group:
        yield group


def _read(
    model: LanguageModel, units: Units, scales: dict[Feature, Scale], rows: LearningRows, batch_size: int
) -> Iterator[tuple[Feature, UnitRows]]:
    features = list(scales)
    sites, columns = used_sites(units, features)
    device = model.device
    index = [torch.tensor([i for _, i in some], device=device) for some in columns]
    factor = [torch.tensor([_factor(scales[features[c]]) for c, _ in some], device=device) for some in columns]
    number = [np.array([c for c, _ in some], np.int32) for some in columns]
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for start in range(0, len(rows.numbers), batch_size):
        stop = min(start + batch_size, len(rows.numbers))
        mine = slice(int(rows.starts[start]), int(rows.starts[stop]))
        at = torch.from_numpy(np.stack([rows.window[mine] - start, rows.dst[mine]]).astype(np.int64)).to(device)

        def keep(site: int, values: torch.Tensor, at: torch.Tensor = at, base: int = mine.start) -> None:
            share = values.index_select(2, index[site])[at[0], at[1]] * factor[site]
            row, column = torch.nonzero(share > RESTING, as_tuple=True)
            found = share[row, column].cpu().numpy(), row.cpu().numpy(), column.cpu().numpy()
            parts.append(((found[1] + base).astype(np.int32), number[site][found[2]], found[0].astype(np.float32)))

        size = int(rows.lengths[start:stop].max())
        read_units(model, model.to_ids(rows.ids[start:stop, :size]), sites, keep)
    row, column, share = (np.concatenate(some) for some in zip(*parts, strict=True))
    parts.clear()
    order = np.argsort(column, kind="stable")
    bounds = np.searchsorted(column[order], np.arange(len(features) + 1))
    for place, feature in enumerate(features):
        mine_now = order[bounds[place] : bounds[place + 1]]
        yield feature, UnitRows(row[mine_now].astype(np.int64), share[mine_now])


def _factor(scale: Scale) -> float:
    return scale.sign / scale.reference
