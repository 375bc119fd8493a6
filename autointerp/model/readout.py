"""From residual-stream directions to logits, through the final norm with its scale frozen.

The final norm is `out = normalised * gain + shift` with `normalised = (x - mean?) / scale`. Gain and whether the mean
is removed are read off a real run, so that every norm that the bridge boots is covered (a Gemma gain is 1 + weight).
Logits are centred over the vocabulary, the model's logit scale included; a soft cap after the unembedding is left out,
as no additive claim survives it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from autointerp.errors import ModelError
from autointerp.model.language_model import LanguageModel


@dataclass(frozen=True)
class Readout:
    """The frozen-scale map from the residual stream to centred logits."""

    to_logits: Float[Tensor, "d_model d_vocab"]  # gain times the unembedding, centred over the vocabulary
    gain: Float[Tensor, " d_model"]
    centred: bool  # the norm removes the mean over d_model
    eps: float  # what the norm adds to the variance

    @classmethod
    def of(cls, model: LanguageModel, ids: Int[Tensor, "batch pos"]) -> Readout:
        """Fit gain and shift of the final norm on a run of `ids` (a few rows of real text)."""
        if not model.direct_writes:
            raise ModelError(
                f"{model.name} has a norm between its attention and the residual stream, so a head's write is not what "
                "reaches the stream, and it cannot be read as logits. Fields that need it are not available."
            )
        residual, hidden = model.final_states(ids)
        eps = float(getattr(model.bridge.cfg, "eps", 0.0) or 0.0)
        x, out = (t.float().reshape(-1, t.shape[-1]) for t in (residual, hidden))
        errors: list[tuple[float, bool, Tensor]] = []
        for centred in (True, False):
            normalised = _normalise(x, eps, centred=centred)[0]
            spread = normalised - normalised.mean(0)
            gain = (spread * (out - out.mean(0))).sum(0) / spread.square().sum(0).clamp_min(1e-12)
            rest = out - out.mean(0) - spread * gain
            errors.append((float(rest.norm() / (out - out.mean(0)).norm().clamp_min(1e-12)), centred, gain))
        error, centred, gain = min(errors, key=lambda e: e[0])
        if error > 0.05:
            raise ModelError(
                f"{model.name}: the final norm is not a gain on a normalised stream (misfit {error:.3g}), so writes "
                "cannot be read as logits. This architecture is not supported."
            )
        weight = gain[:, None] * model.W_U.to(gain.device) * model.logit_scale
        if centred:
            weight = weight - weight.mean(0)
        return cls(weight - weight.mean(1, keepdim=True), gain, centred, eps)

    def scale(self, residual: Float[Tensor, "row d_model"]) -> Float[Tensor, " row"]:
        """The divisor that the final norm used at these positions."""
        return _normalise(residual.float(), self.eps, centred=self.centred)[1]

    def logits(
        self, writes: Float[Tensor, "row d_model"], scale: Float[Tensor, " row"]
    ) -> Float[Tensor, "row d_vocab"]:
        """Centred logits of each write, with the scale of its own position."""
        return (writes.float() / scale[:, None]) @ self.to_logits

    def of_tokens(
        self, writes: Float[Tensor, "row d_model"], scale: Float[Tensor, " row"], tokens: Int[Tensor, " row"]
    ) -> Float[Tensor, " row"]:
        """Centred logit of one token a row."""
        return (writes.float() * self.to_logits[:, tokens].T).sum(-1) / scale


def _normalise(x: Tensor, eps: float, *, centred: bool) -> tuple[Tensor, Tensor]:
    x = x - x.mean(-1, keepdim=True) if centred else x
    scale = (x.square().mean(-1) + eps).clamp_min(1e-12).sqrt()
    return x / scale[:, None], scale


def log_probs(model: LanguageModel, hidden: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_vocab"]:
    """Log-probabilities at positions given by the final norm's output, soft cap and logit scale included."""
    return torch.log_softmax(model.unembed(hidden), dim=-1)
