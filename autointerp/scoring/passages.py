"""Passages of held-out text for simulation: a stratified sample whose weights make it stand for all of the text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from autointerp.feature_records import ACTIVE
from autointerp.records import Feature
from autointerp.scoring.held_out import HeldOutRows

LENGTH = 30  # tokens of a passage
N_ACTIVE, N_RESTING = 3, 2


@dataclass(frozen=True)
class Passage:
    """Tokens `start` to `stop` of a window with the shares measured there; `weight`: passages that it stands for."""

    window: int
    document: int
    start: int
    stop: int
    active: bool  # of the stratum in which the unit is active
    weight: float
    shares: tuple[float, ...]


def choose_passages(
    held_out: HeldOutRows, feature: Feature, share: Float[np.ndarray, "window pos"], seed: int
) -> list[Passage]:
    """Up to N_ACTIVE passages in which the unit is active and N_RESTING others, in seeded order."""
    rng = np.random.default_rng([seed, feature.layer, feature.index, 1])
    pieces = _pieces(held_out)
    active = np.array([bool((share[w, a:b] >= ACTIVE).any()) for w, a, b in pieces.tolist()], dtype=bool)
    used: set[int] = set()
    found: list[Passage] = []
    for stratum, wanted in ((True, N_ACTIVE), (False, N_RESTING)):
        own = pieces[active == stratum]
        chosen: list[tuple[int, int, int]] = []
        for window, start, stop in rng.permutation(own).tolist():
            document = int(held_out.documents[window])
            if document not in used and len(chosen) < wanted:
                used.add(document)
                chosen.append((window, start, stop))
        weight = len(own) / max(len(chosen), 1)
        for window, start, stop in chosen:
            shares = tuple(np.maximum(share[window, start:stop], 0).astype(float).tolist())
            document = int(held_out.documents[window])
            found.append(Passage(window, document, start, stop, stratum, weight, shares))
    return [found[i] for i in rng.permutation(len(found))]


def _pieces(held_out: HeldOutRows) -> Int[np.ndarray, "piece 3"]:
    """(window, start, stop) of all passages: position 0 is left out, what remains is cut evenly."""
    found: list[tuple[int, int, int]] = []
    for window, length in enumerate(held_out.lengths.tolist()):
        found += [(window, start, min(start + LENGTH, length)) for start in range(1, length, LENGTH)]
    return np.array(found, dtype=np.int64).reshape(-1, 3)
