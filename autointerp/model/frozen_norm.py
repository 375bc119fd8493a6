"""A norm with its scale frozen: then it is linear, and what enters it can be told apart.

Every norm that the bridge boots is `gain * (x - mean?) / scale(x) + shift`. Gain, shift and whether the mean is taken
off are read from the module itself, by feeding it the unit vectors; the scale it used for x follows from its output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from autointerp.errors import ModelError

_SIZE = 1e3  # of the fed vectors, so that what the norm adds to the variance does not count


@dataclass(frozen=True, eq=False)
class FrozenNorm:
    """`module` taken apart: `gain` and `shift` over d_model; `centred`: it removes the mean."""

    module: Any
    gain: Float[Tensor, " d_model"]
    shift: Float[Tensor, " d_model"]
    centred: bool

    @classmethod
    def of(cls, module: Any, example: Float[Tensor, "row d_model"]) -> FrozenNorm:
        """`example`: a few real inputs, on which the reading is checked. Raises ModelError where it does not hold."""
        width, like = example.shape[-1], example
        with torch.no_grad():
            shift = module(torch.zeros_like(like[:1])[None])[0, 0].float()
            flat = module(torch.full_like(like[:1], _SIZE)[None])[0, 0].float() - shift
            eye = torch.eye(width, device=like.device, dtype=like.dtype) * _SIZE
            out = module(eye[None])[0].diagonal().float() - shift
        centred = bool(flat.abs().max() < 1e-2 * out.abs().max())
        x = eye.float() - eye.float().mean(-1, keepdim=True) if centred else eye.float()
        normalised = (x / x.square().mean(-1, keepdim=True).sqrt()).diagonal()
        norm = cls(module, out / normalised, shift, centred)
        with torch.no_grad():
            found, wanted = norm.apply(example, norm.scale(example)), module(example[None])[0].float()
        tolerance = 1e-3 if example.dtype == torch.float32 else 5e-2
        if not float((found - wanted).norm()) <= tolerance * float(wanted.norm()):
            raise ModelError(
                "a norm of this model is not a gain on a normalised stream, so its scale cannot be frozen. "
                "Additive claims are not available for it."
            )
        return norm

    def moved(self, x: Float[Tensor, "*row d_model"]) -> Float[Tensor, "*row d_model"]:
        """Gain times x, the mean off where the norm takes it off: the norm's output for scale 1, without the shift."""
        x = x.float()
        return self.gain * (x - x.mean(-1, keepdim=True) if self.centred else x)

    def scale(self, x: Float[Tensor, "*row d_model"]) -> Float[Tensor, "*row"]:
        """The divisor that the norm uses for x."""
        with torch.no_grad():
            out = self.module(x.reshape(1, -1, x.shape[-1])).reshape(x.shape).float() - self.shift
        whole = self.moved(x)
        found: Tensor = whole.square().sum(-1) / (whole * out).sum(-1)
        return found

    def apply(self, x: Float[Tensor, "*row d_model"], scale: Float[Tensor, "*row"]) -> Float[Tensor, "*row d_model"]:
        """The norm's output with that scale."""
        return self.moved(x) / scale[..., None] + self.shift
