"""The activations of chosen units at every token of some windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float32, Int

from autointerp.model import LanguageModel, UnitSite, read_units
from autointerp.records import Feature


class Units(Protocol):
    """What reading asks of a set of units: its sites, and where a unit lies among them."""

    @property
    def sites(self) -> tuple[UnitSite, ...]: ...
    def place(self, feature: Feature) -> tuple[int, int]: ...


def read_activations(
    model: LanguageModel,
    units: Units,
    features: Sequence[Feature],
    ids: Int[np.ndarray, "window pos"],
    lengths: Int[np.ndarray, " window"],
    batch_size: int = 8,
    *,
    signs: Mapping[Feature, int] | None = None,
) -> Float32[np.ndarray, "window pos feature"]:
    """Activations of `features`, times `signs` where they are given (raw ones otherwise); 0 at pads.

    Position 0 is read like the others.
    """
    found = np.zeros((*ids.shape, len(features)), np.float32)
    sites, columns = used_sites(units, features)
    device = model.device
    wanted = [torch.tensor([index for _, index in some], device=device) for some in columns]
    for start in range(0, len(ids), batch_size):
        part = slice(start, start + batch_size)
        size = int(lengths[part].max(initial=1))

        def keep(site: int, values: torch.Tensor, part: slice = part, size: int = size) -> None:
            where = [column for column, _ in columns[site]]
            found[part, :size, where] = values.index_select(2, wanted[site]).cpu().numpy()

        if sites:
            read_units(model, model.to_ids(ids[part, :size]), sites, keep)
    found[np.arange(ids.shape[1]) >= lengths[:, None]] = 0
    if signs is not None:
        found *= np.array([signs[feature] for feature in features], np.float32)
    return found


def used_sites(units: Units, features: Sequence[Feature]) -> tuple[list[UnitSite], list[list[tuple[int, int]]]]:
    """The sites that hold some of `features`, and for each its (number in `features`, index within the site)."""
    at: dict[int, list[tuple[int, int]]] = {}
    for column, feature in enumerate(features):
        site, index = units.place(feature)
        at.setdefault(site, []).append((column, index))
    used = sorted(at)
    return [units.sites[site] for site in used], [at[site] for site in used]
