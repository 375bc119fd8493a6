"""The optional linear map of the vector before it is put in: one matrix and bias a layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Filter:
    """`h' = h W + b` by layer."""

    weight: Float[Tensor, "layer d_model d_model"]
    bias: Float[Tensor, "layer d_model"]

    @classmethod
    def identity(cls, n_layers: int, d_model: int) -> Filter:
        """The map that changes nothing."""
        return cls(torch.eye(d_model).repeat(n_layers, 1, 1), torch.zeros(n_layers, d_model))

    def __call__(self, h: Float[Tensor, "row d_model"], layer: Int[Tensor, " row"]) -> Float[Tensor, "row d_model"]:
        found = torch.empty_like(h)
        for place in layer.unique().tolist():
            rows = layer == place
            found[rows] = h[rows] @ self.weight[place] + self.bias[place]
        return found

    def copy(self) -> Filter:
        """The same numbers, apart from what is trained."""
        return Filter(self.weight.detach().clone(), self.bias.detach().clone())
