"""A neuron or latent at its mean everywhere on held-out text: rise of the loss and KL a token.

Its activation is replaced by the mean over the explain split at every position after the first; all downstream is
recomputed. Windows are drawn one a document first, as many as a budget of tokens for all units allows, and cut to a
length that the vocabulary allows; several units of one layer run as one batch from their layer on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from autointerp.evidence.collect import first_windows
from autointerp.model import CleanRun, LanguageModel, clean_run
from autointerp.model.head_changes import tiled_calls
from autointerp.model.language_model import HookFunction
from autointerp.model.resume import run_hooked
from autointerp.model.row_changes import write_hook
from autointerp.records import Feature, Interval
from autointerp.scoring.ablation import scored_positions
from autointerp.scoring.feature_rows import Reading, scored
from autointerp.scoring.held_out import HeldOutRows
from autointerp.scoring.next_token import CleanDistributions
from autointerp.scoring.predicates import Progress
from autointerp.stats.bootstrap import Resamples, interval

TOKENS = 1_200_000  # of all units together
CPU_WORK = 10**12  # tokens times parameters, where there is no GPU
WINDOWS = (8, 48)  # of a unit, at least and at most
LENGTH = 128  # positions of a window that run
BATCH_TOKENS = {"cpu": 2048}
GPU_TOKENS = 16_384


@dataclass(frozen=True, eq=False)
class Sample:
    """Windows that every unit is ablated on, cut to the positions that run."""

    held_out: HeldOutRows

    @classmethod
    def of(cls, model: LanguageModel, test: HeldOutRows, n_units: int) -> Sample:
        """As many windows as TOKENS and CPU_WORK allow."""
        length = min(LENGTH, test.ids.shape[1])
        size = sum(p.numel() for p in model.bridge.original_model.parameters())
        tokens = min(TOKENS, CPU_WORK // max(size, 1)) if model.device.type == "cpu" else TOKENS
        n = int(np.clip(tokens // max(1, n_units * length), *WINDOWS))
        taken = test.take(first_windows(test.documents, n))
        cut = {name: getattr(taken, name)[:, :length] for name in ("ids", "rows", "sources")}
        return cls(replace(taken, lengths=np.minimum(taken.lengths, length), **cut))


@dataclass(frozen=True, eq=False)
class UnitAblation:
    """Rise of the loss and KL, nats a token, with document bootstrap, and the KL in rows that the unit's description
    names; `n` is the number of tokens."""

    loss: Interval
    kl: Interval
    effect: Interval


def ablate_units(
    reading: Reading,
    features: Sequence[Feature],
    test: HeldOutRows,
    named: Callable[[Feature, HeldOutRows], Bool[np.ndarray, "window pos"] | None],
    seed: int,
    progress: Progress,
) -> dict[Feature, UnitAblation]:
    """Ablate each unit alone; `named` gives the rows that a description names, None where it names none."""
    if not features:
        return {}
    rows = Sample.of(reading.model, test, len(features)).held_out
    place = scored_positions(rows, reading.model.d_vocab, np.random.default_rng(seed)) & scored(rows)
    resamples = Resamples.of(rows.n_documents, seed)
    ordered = sorted(features, key=lambda f: reading.units.place(f))
    masks = [named(f, rows) for f in ordered]
    where = np.stack([place & mask if mask is not None else np.zeros_like(place) for mask in masks])
    sums = np.zeros((3, len(ordered), rows.n_documents))
    shares = reading.shares(ordered, rows)
    batch = max(1, min(16, BATCH_TOKENS.get(reading.model.device.type, GPU_TOKENS) // rows.ids.shape[1]))
    for start in range(0, len(rows.ids), batch):
        part = slice(start, start + batch)
        ablation = _Batch(reading, rows.ids[part], place[part])
        documents = rows.documents[part][ablation.row_window]
        for some in _alike(reading, ordered, ablation.together):
            loss, kl = ablation.effects([ordered[k] for k in some], shares[some][:, part])
            at_named = kl * where[some][:, part][:, ablation.row_window, ablation.pos]
            for what, values in enumerate((loss, kl, at_named)):
                for number, one in zip(some, values, strict=True):
                    sums[what, number] += np.bincount(documents, one, rows.n_documents)
        progress("ablating units", min(start + batch, len(rows.ids)), len(rows.ids))
    counts = np.bincount(rows.documents, place.sum(1), rows.n_documents)
    named_counts = [np.bincount(rows.documents, one.sum(1), rows.n_documents) for one in where]
    return {
        feature: UnitAblation(
            *(_mean(one[n], k, resamples) for one, k in zip(sums, (counts, counts, named_counts[n]), strict=True))
        )
        for n, feature in enumerate(ordered)
    }


def _alike(reading: Reading, features: Sequence[Feature], n: int) -> list[list[int]]:
    """Numbers of units by site, at most n together."""
    by_site: dict[int, list[int]] = {}
    for number, feature in enumerate(features):
        by_site.setdefault(reading.units.place(feature)[0], []).append(number)
    return [some[k : k + n] for some in by_site.values() for k in range(0, len(some), n)]


class _Batch:
    """Windows run unchanged, from which the ablation of each unit runs on."""

    def __init__(self, reading: Reading, ids: Int[np.ndarray, "window pos"], place: np.ndarray) -> None:
        self._reading, model = reading, reading.model
        self._run = clean_run(model, model.to_ids(ids))
        self.row_window, self.pos = np.nonzero(place)
        self._rows = tuple(torch.as_tensor(a, device=model.device) for a in (self.row_window, self.pos))
        following = torch.as_tensor(ids[self.row_window, self.pos + 1].astype(np.int64), device=model.device)
        self._clean = CleanDistributions.of(model, self._run.hidden[self._rows], following)
        self._tiles: dict[int, CleanRun] = {}
        self.together = max(1, BATCH_TOKENS.get(model.device.type, GPU_TOKENS) // ids.size)

    def effects(
        self, features: Sequence[Feature], shares: Float32[np.ndarray, "feature window pos"]
    ) -> tuple[Float[np.ndarray, "feature row"], Float[np.ndarray, "feature row"]]:
        """(rise of the loss, KL) with each of some units of one site ablated alone."""
        reading, model, n = self._reading, self._reading.model, len(features)
        site = reading.units.sites[reading.units.place(features[0])[0]]
        facts = [reading.facts[f] for f in features]
        mean, scale = (np.array(a, np.float32)[:, None, None] for a in (
            [f.mean for f in facts], [f.share_size for f in facts]))  # fmt: skip
        amount = mean - shares * scale
        amount[:, :, 0] = 0
        directions = site.directions([reading.units.place(f)[1] for f in features], model.device)
        hook = _adding(torch.from_numpy(amount.astype(np.float32)).to(model.device), directions)
        stream = self._run.calls[site.layer].stream.repeat(n, 1, 1)
        hidden = run_hooked(model, self._tiled(n), site.layer, [(write_hook(site), hook)], stream)
        window, pos = self._rows
        found = hidden.reshape(n, -1, *hidden.shape[1:])[:, window, pos]
        rises, kls = self._clean.effects(found)
        return rises.double().cpu().numpy(), kls.double().cpu().numpy()

    def _tiled(self, n: int) -> CleanRun:
        """The unchanged run of n copies of the batch."""
        if n == 1:
            return self._run
        if n not in self._tiles:
            model, ids = self._reading.model, self._run.ids.repeat(n, 1)
            tiled = model.exact_resume and model.shortcuts.tiled
            run = (
                replace(self._run, ids=ids, calls=tiled_calls(model, self._run, n)) if tiled else clean_run(model, ids)
            )
            self._tiles[n] = run
        return self._tiles[n]


def _adding(amount: Float32[Tensor, "unit window pos"], directions: Float[Tensor, "unit width"]) -> HookFunction:
    def hook(held: Tensor, hook: Any) -> Tensor:
        shape = (len(amount), -1, held.shape[1], directions.shape[1])
        changed = held.float().reshape(shape) + amount[..., None] * directions[:, None, None, :]
        return changed.to(held.dtype).reshape(held.shape)

    return hook


def _mean(sums: np.ndarray, counts: np.ndarray, resamples: Resamples) -> Interval:
    n = int(counts.sum())
    if n == 0:
        return Interval(value=float("nan"), low=float("nan"), high=float("nan"), n=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        low, high = interval((resamples.counts @ sums) / (resamples.counts @ counts))
    return Interval(value=float(sums.sum() / n), low=low, high=high, n=n)
