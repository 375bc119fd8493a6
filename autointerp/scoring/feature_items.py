"""When a neuron or latent is active on held-out rows, for the scorers that ask: thresholds are shares of its reference.

A row is active from a share of ACTIVE on and at rest up to RESTING; what lies between is the dead zone. The reference
comes from the explain split, so no threshold is chosen on what is scored.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from autointerp.feature_records import ACTIVE, RESTING
from autointerp.records import Feature
from autointerp.scoring.activity import RowStates
from autointerp.scoring.detection_items import DetectionItem, detection_items
from autointerp.scoring.held_out import HeldOutRows


def feature_states(share: Float[np.ndarray, "window pos"], held_out: HeldOutRows) -> RowStates:
    """States of the held-out rows from `share`, the activation over the reference (negative where it is below 0)."""
    counted = held_out.sources  # destinations that are no control tokens
    state = (share >= ACTIVE).astype(np.int8) - (share <= RESTING).astype(np.int8)
    return RowStates(ACTIVE, RESTING, state * counted.astype(np.int8), np.maximum(share, 0).astype(np.float32))


def feature_detection_items(
    held_out: HeldOutRows,
    feature: Feature,
    share: Float[np.ndarray, "window pos"],
    seed: int,
    near: Bool[np.ndarray, "window pos"] | None = None,
) -> list[DetectionItem]:
    """Items of one unit; `near`: rows where one of its neighbours is active (tier T2)."""
    return detection_items(held_out, feature, feature_states(share, held_out), seed, near)
