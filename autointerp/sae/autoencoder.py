"""A sparse autoencoder as arithmetic: vectors to latents and back.

1. `x` is normalised as in training (row by row; `layer_norm` and `constant_norm_rescale` are undone when decoding).
2. pre-activations: `(x - b_dec) W_enc + b_enc` (without `b_dec` where training did not subtract it).
3. latents: relu; the k largest of a row; those above their threshold; or gated (Rajamanoharan et al. 2024).
4. back: `latents W_dec + b_dec`, then step 1 undone.

Constant factors (input scale, decoder norms, fine-tuning factors) are folded into the weights when they are read. A
batch-topk autoencoder with a threshold is a jumprelu one; without, each row keeps its own k largest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from autointerp.errors import BadInput
from autointerp.sae.settings import SaeSettings

_LAYER_NORM_EPS = 1e-5  # as SAELens adds it, to the standard deviation
CHUNK_CELLS = 16_000_000  # latents in memory at once while reconstructing


@dataclass(frozen=True, eq=False)
class Gate:
    """The gated encoder's own vectors: open where `pre + b_gate > 0`, magnitude `relu(pre exp(r_mag) + b_mag)`."""

    b_gate: Float[Tensor, " latent"]
    r_mag: Float[Tensor, " latent"]
    b_mag: Float[Tensor, " latent"]


@dataclass(frozen=True, eq=False)
class Sae:
    """A checked autoencoder, float32. `settings` as read; `file_hash` is of the weights' file."""

    settings: SaeSettings
    W_enc: Float[Tensor, "width latent"]
    b_enc: Float[Tensor, " latent"]
    W_dec: Float[Tensor, "latent width"]
    b_dec: Float[Tensor, " width"]
    threshold: Float[Tensor, " latent"] | None = None
    gate: Gate | None = None
    file_hash: str = ""
    notes: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        return int(self.W_dec.shape[1])

    @property
    def n_latents(self) -> int:
        return int(self.W_dec.shape[0])

    @property
    def row_scaled(self) -> bool:
        """Whether inputs are divided by a norm of their own row, so that a latent's effect depends on the row."""
        return self.settings.normalisation != "none"

    def to(self, device: torch.device) -> Sae:
        """The same on a device."""
        gate = self.gate and Gate(self.gate.b_gate.to(device), self.gate.r_mag.to(device), self.gate.b_mag.to(device))
        return replace(
            self,
            W_enc=self.W_enc.to(device),
            b_enc=self.b_enc.to(device),
            W_dec=self.W_dec.to(device),
            b_dec=self.b_dec.to(device),
            threshold=None if self.threshold is None else self.threshold.to(device),
            gate=gate,
        )

    def scaled(self, factor: float) -> Sae:
        """The same for inputs that are multiplied by `factor` before encoding, and divided by it after decoding."""
        return replace(self, W_enc=self.W_enc * factor, W_dec=self.W_dec / factor, b_dec=self.b_dec / factor)

    def encode(self, x: Float[Tensor, "row width"]) -> Float[Tensor, "row latent"]:
        """Activations of all latents, not below 0."""
        inputs = self._normalised(x.float())[0]
        if self.settings.subtract_b_dec:
            inputs = inputs - self.b_dec
        pre = torch.addmm(self.b_enc, inputs, self.W_enc)
        if self.gate is not None:
            open_ = pre + self.gate.b_gate > 0
            return torch.relu(pre * self.gate.r_mag.exp() + self.gate.b_mag) * open_
        if self.threshold is not None:
            return pre.masked_fill_(pre <= self.threshold, 0.0)
        if self.settings.k is not None:
            return _largest(pre, self.settings.k)
        return pre.relu_()

    def decode(
        self, latents: Float[Tensor, "row latent"], like: Float[Tensor, "row width"] | None = None
    ) -> Float[Tensor, "row width"]:
        """Reconstruction; `like` holds the encoded vectors, whose rows' own norm or mean is put back. Raises BadInput
        where it is needed and missing."""
        found = latents @ self.W_dec + self.b_dec
        if not (self.row_scaled or self.settings.centred):
            return found
        if like is None:
            raise BadInput(
                "this SAE normalises each vector: decoding needs the vectors that were encoded. Pass `like`."
            )
        _, mean, scale = self._normalised(like.float())
        return found * scale + mean

    def reconstruct(self, x: Float[Tensor, "row width"]) -> Float[Tensor, "row width"]:
        """`decode(encode(x))`, in parts that fit into memory."""
        found = torch.empty(x.shape, dtype=torch.float32, device=x.device)
        step = max(1, CHUNK_CELLS // self.n_latents)
        for start in range(0, len(x), step):
            rows = slice(start, start + step)
            found[rows] = self.decode(self.encode(x[rows]), x[rows])
        return found

    def encode_scaled(self, x: Float[Tensor, "row width"]) -> Float[Tensor, "row latent"]:
        """Activations times the scale of their row, so that one unit adds one row of `W_dec` to what is encoded."""
        return self.encode(x) * self._normalised(x.float())[2]

    def _normalised(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(x as encoded, mean put back after decoding, factor put back before)."""
        mean = torch.zeros(len(x), 1, device=x.device)
        scale = torch.ones(len(x), 1, device=x.device)
        kind = self.settings.normalisation
        if self.settings.centred or kind == "layer_norm":
            mean = x.mean(-1, keepdim=True)
            x = x - mean
        if kind == "layer_norm":
            scale = x.std(-1, keepdim=True)
            return x / (scale + _LAYER_NORM_EPS), mean, scale
        if kind == "constant_norm_rescale":
            scale = (x.norm(dim=-1, keepdim=True) / self.width**0.5).clamp_min(1e-12)
            return x / scale, mean, scale
        return x, mean, scale


def _largest(pre: Tensor, k: int) -> Tensor:
    """The k largest of each row where they are above 0, the rest 0."""
    values, places = pre.topk(min(k, pre.shape[-1]), dim=-1, sorted=False)
    return torch.zeros_like(pre).scatter_(-1, places, values.relu_())
