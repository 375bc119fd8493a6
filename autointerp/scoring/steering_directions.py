"""Where units are steered: their own directions, and random ones of the same norm in the residual stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from autointerp.errors import ModelError
from autointerp.model import LanguageModel, UnitSite
from autointerp.model.row_changes import RowAdditions, write_hook
from autointerp.model.sites import hook_name
from autointerp.records import Feature
from autointerp.scoring.feature_rows import Reading

RANDOM = 5


@dataclass(frozen=True, eq=False)
class SteeredRows:
    """Resting rows of one unit on a split."""

    window: Int[np.ndarray, " row"]
    dst: Int[np.ndarray, " row"]
    documents: Int[np.ndarray, " row"]


@dataclass(frozen=True, eq=False)
class Job:
    """One unit with one direction at some rows: number of the direction (0 its own, then random ones), strength."""

    feature: Feature
    rows: SteeredRows
    direction: int
    strength: float


class Directions:
    """The directions of some units, each with RANDOM others."""

    def __init__(self, reading: Reading, features: Sequence[Feature], seed: int) -> None:
        self._reading = reading
        self._number = {feature: number for number, feature in enumerate(features)}
        own: dict[str, list[Tensor]] = {}
        self._at: dict[tuple[Feature, int], tuple[str, int]] = {}
        for feature in features:
            for k, (hook, vector) in enumerate(self._vectors(feature, seed)):
                there = own.setdefault(hook, [])
                self._at[feature, k] = hook, len(there)
                there.append(vector)
        self._hooks = tuple(own)
        self._bank = tuple(torch.stack(vectors) for vectors in own.values())

    def additions(self, jobs: Sequence[Job]) -> RowAdditions:
        """All rows of the jobs."""
        sizes = [len(job.rows.dst) for job in jobs]
        at = [self._at[job.feature, job.direction] for job in jobs]
        facts = [self._reading.facts[job.feature] for job in jobs]
        amount = [job.strength * fact.reference * fact.sign for job, fact in zip(jobs, facts, strict=True)]
        return RowAdditions(
            np.concatenate([job.rows.window for job in jobs]),
            np.concatenate([job.rows.dst for job in jobs]),
            np.repeat([self._hooks.index(hook) for hook, _ in at], sizes),
            np.repeat([number for _, number in at], sizes),
            np.repeat(np.array(amount, np.float32), sizes),
            self._hooks,
            self._bank,
        )

    def _vectors(self, feature: Feature, seed: int) -> Iterator[tuple[str, Float[Tensor, " width"]]]:
        """(hook, direction): the unit's own, then RANDOM others."""
        model, (number, index) = self._reading.model, self._reading.units.place(feature)
        site = self._reading.units.sites[number]
        own = site.directions([index], model.device)[0]
        yield write_hook(site), own
        hook, like = stream_hook(model, site, index, own)
        draw = torch.Generator().manual_seed(seed * 1_000_003 + feature.layer * 100_003 + feature.index)
        for _ in range(RANDOM):
            random = torch.randn(len(like), generator=draw).to(like.device)
            yield hook, random * (like.norm() / random.norm())


def stream_hook(
    model: LanguageModel, site: UnitSite, index: int, own: Float[Tensor, " width"]
) -> tuple[str, Float[Tensor, " width"]]:
    """Where a vector reaches the stream beside what the unit writes, and what the unit writes there. Where a norm
    stands between, the place of the unit itself."""
    try:
        written = site.into_stream(model, [index])[0]
    except ModelError:
        return write_hook(site), own
    names = {"mlp_post": "mlp_out", "z": "attn_out"}
    return (hook_name(names[site.place], site.layer) if site.place in names else write_hook(site)), written
