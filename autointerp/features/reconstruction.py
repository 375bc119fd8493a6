"""Does an autoencoder reconstruct what this model computes? Measured on real text before anything is described.

1. Windows spread over the text are run; vectors are read at the hook. Position 0 and control tokens are left as they
   are in the headline: many autoencoders never saw them, and their norms would drown all others. Numbers with position
   0 stand beside it.
2. Explained variance: `1 - sum |x - x_hat|^2 / sum |x - mean|^2`, the mean over the same rows.
3. Loss recovered: `(L_zero - L_sae) / (L_zero - L_clean)` with x_hat, or zeros, spliced in at the hook; the same with
   the rows' mean in the place of zeros.
4. Control: the same vectors turned about their mean by random rotations. An autoencoder of another model has no reason
   to do better on these vectors than on turned ones; even a random dictionary explains some variance of anything.

Intervals are bootstraps over documents. What is refused stands in `reconstructed.Reconstruction.refusal`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autointerp.errors import BadInput
from autointerp.features.reconstructed import ENOUGH, Reconstruction
from autointerp.features.sae_hint import better_settings
from autointerp.features.units import UnitSet
from autointerp.model import LanguageModel, UnitSite
from autointerp.model.splice import Splice, spliced_losses
from autointerp.records import Interval
from autointerp.sae import Sae
from autointerp.stats.bootstrap import Estimate, Resamples, ratio_interval

__all__ = ["Reconstruction", "measure_reconstruction", "reconstruction"]

N_TOKENS, N_LOSS_TOKENS = 4096, 2048  # read, and of these run again with something else at the hook
ROTATIONS, ROTATED_ROWS = 6, 512
BATCH_TOKENS, ROWS_AT_ONCE = 1024, 256
SEED = 0


def reconstruction(
    model: LanguageModel,
    units: UnitSet,
    ids: Int[np.ndarray, "window pos"],
    lengths: Int[np.ndarray, " window"],
    documents: Int[np.ndarray, " window"] | None = None,
) -> Reconstruction | None:
    """As `measure_reconstruction`, None for neurons. Raises BadInput, with the numbers, for an autoencoder that does
    not fit the model (`Reconstruction.refusal`)."""
    if units.sae is None:
        return None
    found = measure_reconstruction(model, units, ids, lengths, documents)
    if found.refusal is not None:
        raise BadInput(f"{units.spec} does not reconstruct {units.facts.get('hook')} of {model.name}: {found.refusal}. "
                       f"It may be of another model, layer or place, or its settings may be wrong ({found.line}). "
                       f"{found.hint or 'Give an SAE of this model, or correct its JSON.'}")  # fmt: skip
    return found


def measure_reconstruction(
    model: LanguageModel,
    units: UnitSet,
    ids: Int[np.ndarray, "window pos"],
    lengths: Int[np.ndarray, " window"],
    documents: Int[np.ndarray, " window"] | None = None,
) -> Reconstruction:
    """Measure on up to 4,096 tokens of windows spread over `ids`; `documents` numbers the bootstrap's clusters (each
    window its own where left out). Raises BadInput for neurons and where there is no text."""
    if units.sae is None or not len(lengths):
        raise BadInput(f"--units {units.spec}: nothing to reconstruct ({len(lengths)} windows). Give an SAE and text.")
    clusters = np.arange(len(lengths)) if documents is None else np.asarray(documents)
    chosen = _spread(np.asarray(lengths), N_TOKENS)
    numbers = np.unique(clusters[chosen], return_inverse=True)[1]
    text = _Text(np.asarray(ids[chosen]), np.asarray(lengths)[chosen], numbers)
    return _Measure(model, units.sae, units.sites[0], text).run()


def _spread(lengths: Int[np.ndarray, " window"], n_tokens: int) -> Int[np.ndarray, " chosen"]:
    """Windows evenly spaced over the text with about `n_tokens` ids together, ascending."""
    wanted = max(1, min(len(lengths), int(n_tokens // max(1.0, float(lengths.mean())))))
    return np.unique(np.linspace(0, len(lengths) - 1, wanted).round().astype(np.int64))


@dataclass(frozen=True, eq=False)
class _Text:
    """Windows and their document's number, counted from 0."""

    ids: Int[np.ndarray, "window pos"]
    lengths: Int[np.ndarray, " window"]
    documents: Int[np.ndarray, " window"]


@dataclass(frozen=True, eq=False)
class _Measure:
    model: LanguageModel
    sae: Sae
    site: UnitSite
    text: _Text

    def run(self) -> Reconstruction:
        x, row_docs, first, clean = self._read()
        kept = ~first
        back, l0, alive = self._back(x, kept)
        resamples = Resamples.of(int(self.text.documents.max()) + 1, SEED)
        mean = x[kept].mean(0)
        variance = _explained(x[kept], back[kept], row_docs[kept.cpu().numpy()], resamples)
        losses = {"clean": clean, **self._spliced(mean)}
        scored = ~np.isnan(losses["sae"])
        recovered, against_mean, with_first = (
            _recovered(losses, (name, base), self.text.documents, resamples)
            for name, base in (("sae", "zero"), ("sae", "mean"), ("sae with first", "zero"))
        )
        return Reconstruction(
            explained_variance=_as_interval(variance, len(row_docs[kept.cpu().numpy()])),
            loss_recovered=_as_interval(recovered, int(scored.sum())),
            loss_recovered_mean=_as_interval(against_mean, int(scored.sum())),
            turned=self._turned(x[kept]),
            l0=l0,
            alive=alive,
            with_first=(_explained(x, back, row_docs, resamples).value, with_first.value),
            losses={name: float(losses[name][scored].mean()) for name in ("clean", "sae", "zero", "mean")},
            n_tokens=int(self.text.lengths.sum()),
            n_docs=len(np.unique(self.text.documents)),
            hint=better_settings(self.sae, x[kept]) if variance.value < ENOUGH else "",
        )

    def _batches(self, n_tokens: int | None = None) -> Iterator[Int[np.ndarray, " part"]]:
        """Numbers of windows that run together."""
        chosen = np.arange(len(self.text.lengths)) if n_tokens is None else _spread(self.text.lengths, n_tokens)
        step = max(1, BATCH_TOKENS // self.text.ids.shape[1])
        for start in range(0, len(chosen), step):
            yield chosen[start : start + step]

    def _rows(self, part: Int[np.ndarray, " part"]) -> Bool[Tensor, "window pos"]:
        """Positions that count: not padding, not control tokens, position 0 included."""
        ids = self.model.to_ids(self.text.ids[part])
        special = torch.tensor(self.model.special_ids, device=ids.device, dtype=ids.dtype)
        places = torch.arange(ids.shape[1], device=ids.device)
        inside = places < torch.as_tensor(self.text.lengths[part], device=ids.device)[:, None]
        return inside & (~torch.isin(ids, special) | (places == 0))

    def _read(self) -> tuple[Float[Tensor, "row width"], Int[np.ndarray, " row"], Bool[Tensor, " row"], np.ndarray]:
        """Vectors, their documents, whether each is at position 0, and clean losses [window target]."""
        vectors: list[Tensor] = []
        documents, first, losses = [], [], []
        for part in self._batches():
            rows = self._rows(part)
            losses.append(self._losses(part, _keeping(rows, vectors)))
            window, place = rows.nonzero(as_tuple=True)
            documents.append(self.text.documents[part][window.cpu().numpy()])
            first.append(place == 0)
        return torch.cat(vectors), np.concatenate(documents), torch.cat(first), np.concatenate(losses)

    def _losses(self, part: Int[np.ndarray, " part"], splice: Splice) -> Float[np.ndarray, "part target"]:
        ids = self.model.to_ids(self.text.ids[part])
        lengths = torch.as_tensor(self.text.lengths[part], device=ids.device)
        return spliced_losses(self.model, ids, lengths, (self.site.place, self.site.layer), splice).cpu().numpy()

    def _spliced(self, mean: Float[Tensor, " width"]) -> dict[str, Float[np.ndarray, "window target"]]:
        """Losses with something else at the hook, on a part of the windows (NaN elsewhere)."""
        shape = (len(self.text.lengths), self.text.ids.shape[1] - 1)
        found = {name: np.full(shape, np.nan) for name in ("sae", "zero", "mean", "sae with first")}
        for part in self._batches(N_LOSS_TOKENS):
            rows = self._rows(part)
            later = rows.clone()
            later[:, 0] = False
            for name, places in (("sae", later), ("zero", later), ("mean", later), ("sae with first", rows)):
                found[name][part] = self._losses(part, self._putting(name, places, mean))
        return found

    def _putting(self, name: str, places: Bool[Tensor, "part pos"], mean: Float[Tensor, " width"]) -> Splice:
        def put(tensor: Tensor) -> Tensor:
            changed = tensor.clone()
            if name.startswith("sae"):
                changed[places] = self.sae.reconstruct(tensor[places])
            else:
                changed[places] = torch.zeros_like(mean) if name == "zero" else mean
            return changed

        return put

    def _back(
        self, x: Float[Tensor, "row width"], kept: Bool[Tensor, " row"]
    ) -> tuple[Float[Tensor, "row width"], float, float]:
        """The reconstruction, mean active latents of a kept row, share of latents active on some kept row."""
        back: list[Tensor] = []
        total, alive = 0, torch.zeros(self.sae.n_latents, dtype=torch.bool, device=x.device)
        for rows, wanted in zip(x.split(ROWS_AT_ONCE), kept.split(ROWS_AT_ONCE), strict=True):
            latents = self.sae.encode(rows)
            back.append(self.sae.decode(latents, rows))
            active = latents[wanted] > 0
            total += int(active.sum())
            alive |= active.any(0)
        return torch.cat(back), total / max(1, int(kept.sum())), float(alive.float().mean())

    def _turned(self, x: Float[Tensor, "row width"]) -> float:
        """Best explained variance of rows turned about their mean by random rotations."""
        rows = x[:: max(1, len(x) // ROTATED_ROWS)].cpu()
        mean = rows.mean(0)
        generator = torch.Generator().manual_seed(SEED)
        found = []
        for _ in range(ROTATIONS):
            turn = torch.linalg.qr(torch.randn(x.shape[1], x.shape[1], generator=generator))[0]
            turned = ((rows - mean) @ turn + mean).to(x.device)
            rest = (turned - self.sae.reconstruct(turned)).square().sum() / (rows - mean).square().sum().to(x.device)
            found.append(1 - float(rest))
        return max(found)


def _keeping(rows: Bool[Tensor, "part pos"], vectors: list[Tensor]) -> Splice:
    return lambda tensor: vectors.append(tensor[rows])


def _explained(x: Tensor, back: Tensor, documents: Int[np.ndarray, " row"], resamples: Resamples) -> Estimate:
    rest = (x - back).square().sum(1).double().cpu().numpy()
    spread = (x - x.mean(0)).square().sum(1).double().cpu().numpy()
    n = resamples.counts.shape[1]
    above, below = (np.bincount(documents, column, n) for column in (rest, spread))
    found = ratio_interval(above, below, resamples)
    return Estimate(1 - found.value, 1 - found.high, 1 - found.low)


def _recovered(
    losses: dict[str, np.ndarray], names: tuple[str, str], documents: Int[np.ndarray, " window"], resamples: Resamples
) -> Estimate:
    """(base - variant) / (base - clean) over the targets that all three have."""
    variant, base = losses[names[0]], losses[names[1]]
    n = resamples.counts.shape[1]
    above, below = (
        np.bincount(documents, np.nansum(base - (other + 0 * variant), axis=1), n)
        for other in (variant, losses["clean"])
    )
    return ratio_interval(above, below, resamples)


def _as_interval(found: Estimate, n: int) -> Interval:
    return Interval(value=found.value, low=found.low, high=found.high, n=n)
