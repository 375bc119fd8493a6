"""The table of all units of a run (`cache/units.npz`), described or not: a row a unit, for counts and for the page.

The file holds arrays of one length: `kind` (neuron, latent), `layer` and `index`, `state` (ok, dead, dense), and the
numbers in NUMBERS.
"""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autointerp.errors import RunFolderError
from autointerp.feature_records import FeatureReport
from autointerp.records import Feature
from autointerp.report.data import number

NUMBERS = ("density", "active_share", "maximum", "reference", "mean")
STATES = ("ok", "dead", "dense")


@dataclass(frozen=True)
class UnitRows:
    """Units in order, the state of each, and their numbers by name (None where undefined)."""

    units: tuple[Feature, ...]
    states: tuple[str, ...]
    numbers: Mapping[str, Sequence[float | int | None]]

    def __len__(self) -> int:
        return len(self.units)

    def counts(self) -> Counter[str]:
        """How many units have each state."""
        return Counter(self.states)


def read_units(path: Path) -> UnitRows | None:
    """The table of a run, or None where there is none. Raises RunFolderError where it cannot be read."""
    import numpy as np

    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as found:
            places = [found[name].tolist() for name in ("kind", "layer", "index")]
            states = tuple(str(state) for state in found["state"].tolist())
            numbers = {name: _short(found[name]) for name in NUMBERS if name in found}
        units = tuple(Feature(kind=k, layer=n, index=i) for k, n, i in zip(*places, strict=True))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise RunFolderError(f"{path} is no table of units ({error}). Delete it, and it is left out.") from None
    columns = {"state": states, **numbers}
    for name, column in columns.items():
        if len(column) != len(units):
            raise RunFolderError(
                f"{path} has {len(column)} values of {name} for {len(units)} units. Delete it, and it is left out."
            )
    return UnitRows(units, states, numbers)


def _short(values: Any) -> list[float | int | None]:
    """Four digits, the shortest numbers."""
    return [number(value, 4) for value in values.astype("float64").tolist()]


def of_reports(rows: UnitRows | None, reports: Sequence[tuple[Feature, str, Sequence[float | int | None]]]) -> UnitRows:
    """`rows` with the reported units that it lacks; `reports`: unit, state, and the numbers in order."""
    known = set(rows.units) if rows is not None else set()
    more = [one for one in reports if one[0] not in known]
    if rows is None:
        rows = UnitRows((), (), {name: [] for name in NUMBERS})
    numbers = {name: [*values] for name, values in rows.numbers.items()}
    for place, name in enumerate(NUMBERS):
        column = numbers.setdefault(name, [None] * len(rows))
        column += [found[place] for _, _, found in more]
    units, states = (*rows.units, *(u for u, _, _ in more)), (*rows.states, *(s for _, s, _ in more))
    order = sorted(range(len(units)), key=lambda i: units[i]) if more else range(len(units))
    return UnitRows(
        tuple(units[i] for i in order), tuple(states[i] for i in order),
        {name: [column[i] for i in order] for name, column in numbers.items()},
    )  # fmt: skip


def numbers_of(report: FeatureReport) -> list[float | int | None]:
    """The NUMBERS of a reported unit."""
    stats = report.evidence.stats
    values = (stats.density, stats.active_share.value, stats.maximum, stats.reference, stats.mean)
    return [number(value, 4) for value in values]
