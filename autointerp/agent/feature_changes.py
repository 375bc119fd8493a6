"""A unit taken out at some places: its mean in place of what it does there, along its direction."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Int

from autointerp.agent.feature_subject import FeatureSubject
from autointerp.model.one_position import Read, run_whole
from autointerp.model.row_changes import UnitRows, unit_additions

Places = tuple[Int[np.ndarray, " row"], Int[np.ndarray, " row"]]


def without_unit(
    subject: FeatureSubject,
    ids: Int[np.ndarray, "window pos"],
    places: Places,
    shares: Float32[np.ndarray, " row"],
    read: Read,
) -> None:
    """Hand log-probabilities at `places` (window, dst) with and without the unit to `read`; `shares` are its own there.
    Each row is fed twice up to its destination: so few rows are not worth a cache."""
    window, dst = places
    if not len(dst):
        return
    site, index = subject.data.units.place(subject.unit)
    n = len(dst)
    rows = UnitRows(window, dst, np.full(n, site), np.full(n, index), subject.amount(shares))
    additions = unit_additions(subject.model, subject.data.units.sites, rows)
    run_whole(subject.model, ids, additions, subject.data.batch_size, read)
