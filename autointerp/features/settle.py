"""Which units are dense, where the first pass cannot say: they are counted on the learning rows before all else.

The first pass estimates the share of active rows from a sample of rows. Where the estimate's interval holds
`DENSE_SHARE`, the sample leaves it open, and one more reading of the text decides.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from autointerp.features.active_rows import Scale, read_active_rows
from autointerp.features.active_share import ShareCounter, shared_intervals
from autointerp.features.first_pass import UnitPass
from autointerp.features.learning_rows import LearningRows
from autointerp.features.unit_table import DENSE_SHARE, UnitTable
from autointerp.features.units import UnitSet
from autointerp.model import LanguageModel
from autointerp.records import Feature, Interval

_LEAST = 0.1  # a smaller estimate leaves nothing open


def open_units(state: UnitPass, table: UnitTable) -> Int[np.ndarray, " some"]:
    """Places in the table of the living units whose share of active rows may be on either side of `DENSE_SHARE`."""
    units = np.flatnonzero((table.state != "dead") & (table.active_share > _LEAST))
    low, high = shared_intervals(state, units, table.sign[units], table.reference[units])
    return np.asarray(units[(low <= DENSE_SHARE) & (high > DENSE_SHARE)])


def settle(
    model: LanguageModel, units: UnitSet, found: tuple[UnitPass, UnitTable], learning: LearningRows, seed: int,
    batch_size: int,
) -> tuple[UnitTable, dict[Feature, Interval]]:  # fmt: skip
    """The table with the open units of a first pass counted, and their shares of active rows."""
    state, table = found
    scales = {
        table.feature(unit): Scale(int(table.sign[unit]), float(table.reference[unit]), 1.0)
        for unit in open_units(state, table).tolist()
    }
    counter = ShareCounter.of(learning, seed)
    read = read_active_rows(model, units, scales, learning, batch_size)
    counted = {feature: counter.share(rows) for feature, rows in read}
    return table.counted({feature: share.value for feature, share in counted.items()}), counted
