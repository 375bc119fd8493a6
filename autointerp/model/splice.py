"""Losses of a model in which something else stands at one place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from autointerp.errors import ModelError
from autointerp.model.language_model import HookFunction, LanguageModel
from autointerp.model.readout import log_probs
from autointerp.model.unit_sites import HookPlace, place_hook

LOGIT_CELLS = 12_000_000  # logits in memory at once
Splice = Callable[[Float[Tensor, "batch pos width"]], Float[Tensor, "batch pos width"] | None]


def spliced_losses(
    model: LanguageModel,
    ids: Int[Tensor, "batch pos"],
    lengths: Int[Tensor, " batch"],
    at: tuple[HookPlace, int],
    splice: Splice,
) -> Float[Tensor, "batch target"]:
    """-log p(next), nats, of predicting id i + 1 at position i; NaN past each row's end.

    `at` is a place and its layer. `splice` gets what stands there (heads joined, float32) and returns what shall stand
    there, None to leave it. Raises ModelError where the model does not report the place.
    """
    put = _Put(splice)
    with model.hooks(put.hooks(*at)):
        hidden = model.final_states(ids)[1]
    if not put.done:
        raise ModelError(f"{model.name}: nothing arrived from {place_hook(*at)}. Choose another place.")
    losses = torch.full((len(ids), ids.shape[1] - 1), torch.nan, device=ids.device)
    counted = torch.arange(1, ids.shape[1], device=ids.device) < lengths[:, None]
    rows, targets = hidden[:, :-1][counted], ids[:, 1:][counted]
    step = max(1, LOGIT_CELLS // model.d_vocab)
    parts = [
        -log_probs(model, rows[start : start + step]).gather(1, targets[start : start + step, None])[:, 0]
        for start in range(0, len(rows), step)
    ]
    losses[counted] = torch.cat(parts) if parts else losses.new_zeros(0)
    return losses


@dataclass
class _Put:
    """The hooks of one splice. `resid_mid` is only read at the input of a norm, beside the stream: what shall change
    there goes through the attention's output, which the stream takes up."""

    splice: Splice
    done: bool = False
    before: list[Tensor] = field(default_factory=list)

    def hooks(self, place: HookPlace, layer: int) -> list[tuple[str, HookFunction]]:
        if place != "resid_mid":
            return [(place_hook(place, layer), self._replace)]
        return [(place_hook("resid_pre", layer), self._keep), (place_hook("attn_out", layer), self._replace_sum)]

    def _replace(self, tensor: Tensor, hook: Any) -> Tensor | None:
        self.done = True
        found = self.splice(tensor.detach().reshape(*tensor.shape[:2], -1).float())
        return None if found is None else found.to(tensor.dtype).reshape(tensor.shape)

    def _keep(self, tensor: Tensor, hook: Any) -> None:
        self.before.append(tensor.detach())

    def _replace_sum(self, tensor: Tensor, hook: Any) -> Tensor | None:
        self.done = True
        stream = self.before.pop().float()
        found = self.splice(stream + tensor.detach().float())
        return None if found is None else (found - stream).to(tensor.dtype)
