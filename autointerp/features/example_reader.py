"""The chosen rows read in full: the text around them, the unit's activation at each token, its effect."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32

from autointerp.evidence.examples import Windows
from autointerp.feature_records import ABLATED, FeatureExample
from autointerp.features.activations import used_sites
from autointerp.features.chosen_rows import ChosenRow, Pool
from autointerp.features.effects import UnitEffect, UnitPlace, unit_effects
from autointerp.features.units import UnitSet
from autointerp.model import LanguageModel, read_units
from autointerp.records import Feature

Chosen = tuple[Feature, ChosenRow]


@dataclass(frozen=True, eq=False)
class ExampleReader:
    """Reads chosen rows window by window; each window runs once."""

    model: LanguageModel
    units: UnitSet
    pool: Pool
    windows: Windows
    batch_size: int

    def read(self, chosen: Sequence[Chosen]) -> list[FeatureExample]:
        """Examples in the order of `chosen`."""
        numbers = np.unique(np.array([row.window for _, row in chosen], np.int64))
        curves = self._curves(chosen, numbers)
        tested = [i for i, (_, row) in enumerate(chosen) if row.stratum in ABLATED]
        places = [
            self._place(*chosen[i], int(np.searchsorted(numbers, chosen[i][1].window)), curves[i]) for i in tested
        ]
        ids = np.asarray(self.windows.ids[numbers]).astype(np.int64)
        found = unit_effects(self.model, self.units, ids, places, 4 * self.batch_size)
        effects = dict(zip(tested, found, strict=True))
        tokens = {int(n): self._tokens(int(n)) for n in numbers}
        return [
            self._example(feature, row, tokens[row.window], curves[i], effects.get(i))
            for i, (feature, row) in enumerate(chosen)
        ]

    def _curves(self, chosen: Sequence[Chosen], numbers: np.ndarray) -> list[Float32[np.ndarray, " pos"]]:
        """The raw activations of each row's unit over the whole of its window."""
        found: dict[int, np.ndarray] = {}
        by_window: dict[int, list[int]] = defaultdict(list)
        for i, (_, row) in enumerate(chosen):
            by_window[row.window].append(i)
        for start in range(0, len(numbers), self.batch_size):
            part = [int(n) for n in numbers[start : start + self.batch_size]]
            items = [i for n in part for i in by_window[n]]
            entry = {i: place for place, n in enumerate(part) for i in by_window[n]}
            sites, columns = used_sites(self.units, [chosen[i][0] for i in items])
            lengths = np.asarray(self.windows.lengths[part])

            def keep(
                site: int, values: torch.Tensor, items: list[int] = items, entry: dict[int, int] = entry,
                columns: list[list[tuple[int, int]]] = columns,
            ) -> None:  # fmt: skip
                mine = [items[column] for column, _ in columns[site]]
                row = torch.tensor([entry[i] for i in mine], device=values.device)
                index = torch.tensor([index for _, index in columns[site]], device=values.device)
                found.update(zip(mine, values[row, :, index].cpu().numpy(), strict=True))

            size = int(lengths.max())
            read_units(self.model, self.model.to_ids(np.asarray(self.windows.ids[part])[:, :size]), sites, keep)
        return [found[i] for i in range(len(chosen))]

    def _place(self, feature: Feature, row: ChosenRow, window: int, curve: np.ndarray) -> UnitPlace:
        table = self.pool.table
        change = float(table.mean[table.row(feature)]) - float(curve[row.dst])
        return UnitPlace(feature, window, row.dst, change, self._next_id(row))

    def _next_id(self, row: ChosenRow) -> int | None:
        if row.dst + 1 >= int(self.windows.lengths[row.window]):
            return None
        return int(self.windows.ids[row.window][row.dst + 1])

    def _tokens(self, window: int) -> tuple[str, ...]:
        ids = self.windows.ids[window][: int(self.windows.lengths[window])]
        return tuple(self.model.strings[int(i)] for i in ids)

    def _control(self, window: int) -> tuple[int, ...]:
        ids = self.windows.ids[window][: int(self.windows.lengths[window])]
        return tuple(np.flatnonzero(np.isin(ids, self.model.special_ids)).tolist())

    def _example(
        self, feature: Feature, row: ChosenRow, tokens: tuple[str, ...], curve: np.ndarray, effect: UnitEffect | None
    ) -> FeatureExample:
        table = self.pool.table
        unit = table.row(feature)
        share = np.round(curve[: len(tokens)] * (table.sign[unit] / table.reference[unit]), 3)
        a = max(float(curve[row.dst]) * int(table.sign[unit]), 0.0)
        following = self._next_id(row)
        return FeatureExample(
            doc_id=self.windows.doc_ids[int(self.windows.doc[row.window])],
            window=int(self.windows.window_in_doc[row.window]),
            dst=row.dst,
            stratum=row.stratum,
            tier=row.tier,
            weight=row.weight,
            tokens=tokens,
            activations=tuple(np.maximum(share, 0.0).tolist()),
            control=self._control(row.window),
            activation=float(f"{a:.6g}"),
            quantile=self.pool.quantile(unit, a),
            next_token=None if following is None else self.model.strings[following],
            abl_dlogp_next=float("nan") if effect is None else float(f"{effect.dlogp_next:.6g}"),
            abl_kl=float("nan") if effect is None else float(f"{effect.kl:.6g}"),
            lowered=() if effect is None else effect.lowered,
            raised=() if effect is None else effect.raised,
        )
