"""The first pass's state on disk: one .npz, replaced atomically, so that a kill leaves the last whole state."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from autointerp.features.first_pass import UnitPass

_PLAIN = ("rows_above", "sums", "extremes", "shared", "progress")


def save_state(state: UnitPass, path: Path) -> None:
    """Write the state to `path` (a .npz)."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as stream:
        np.savez(stream, **_arrays(state), identity=state.identity)  # type: ignore[arg-type]
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def load_state(state: UnitPass, path: Path) -> bool:
    """Put what `save_state` wrote into an empty state of the same split and units; nothing where it is of others."""
    with np.load(path) as saved:
        into = _arrays(state)
        same = set(into) | {"identity"} == set(saved.files) and np.array_equal(saved["identity"], state.identity)
        if not same or any(saved[name].shape != array.shape for name, array in into.items()):
            return False
        for name, array in into.items():
            array[...] = saved[name]
    return True


def _arrays(state: UnitPass) -> dict[str, np.ndarray]:
    """Every array that reading changes, themselves, not copies."""
    found: dict[str, np.ndarray] = {name: getattr(state, name) for name in _PLAIN}
    for side in range(state.n_sides):
        for name, lists in (("top", state.top[side]), ("reservoir", state.reservoir[side])):
            found[f"{name}.{side}.least"] = lists.least
            found |= {f"{name}.{side}.{column}": array for column, array in lists.entries.arrays().items()}
        for name, entries in (("open_best", state.open_best[side]), ("open_drawn", state.open_drawn[side])):
            found |= {f"{name}.{side}.{column}": array for column, array in entries.arrays().items()}
    return found
