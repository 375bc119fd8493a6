"""Many patched forwards of the same prompts side by side, resumed from the first changed layer.

1. One clean run keeps every block's arguments (`resume.clean_run`).
2. `n` variants lie one after the other in the batch; each `Edit` says where in which variant something is put.
3. Blocks before the first edit do not run again. The final norm runs at one position a prompt.

Where the proof on load did not find resuming exact, whole forwards with the same hooks run instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autointerp.model.head_changes import tiled_calls
from autointerp.model.language_model import HookFunction, LanguageModel
from autointerp.model.nodes import NodeKind, n_indices, node_hook, putting
from autointerp.model.resume import Call, clean_run, run_block


@dataclass(frozen=True, eq=False)
class Edit:
    """Put `source` into a node where `mask` says, in each variant. Axes of size 1 (variant, batch) are repeated."""

    kind: NodeKind
    layer: int
    mask: Bool[Tensor, "variant batch pos index"]
    source: Float[Tensor, "variant batch pos index width"]


class BaseRun:
    """A run of right-padded prompts, read at one position each, from which patched variants run on."""

    def __init__(self, model: LanguageModel, ids: Int[Tensor, "batch pos"], ends: Int[Tensor, " batch"]) -> None:
        self._model, self.ids, self.ends = model, ids, ends
        self.run = clean_run(model, ids)
        self._calls: dict[int, tuple[Call, ...]] = {1: self.run.calls}
        self._each = torch.arange(len(ids), device=ids.device)

    @property
    def residual(self) -> Float[Tensor, "batch d_model"]:
        """Input of the final norm at the ends, unchanged."""
        return self.run.residual[self._each, self.ends]

    @property
    def hidden(self) -> Float[Tensor, "batch d_model"]:
        """Output of the final norm at the ends, unchanged."""
        return self.run.hidden[self._each, self.ends]

    def final(self, edits: Sequence[Edit], n: int) -> Float[Tensor, "variant batch d_model"]:
        """Output of the final norm at the ends in each of `n` variants."""
        model = self._model
        with model.hooks(self.hooks(edits, n)):
            if not (edits and model.exact_resume and (n == 1 or model.shortcuts.tiled)):
                states = model.final_states(self.ids.repeat(n, 1))[1]
                return states.reshape(n, *self.ids.shape, -1)[:, self._each, self.ends]
            first = min(edit.layer for edit in edits)
            calls = self.tiled(n)
            stream = self.run.calls[first].stream.repeat(n, 1, 1)
            for layer in range(first, model.n_layers):
                stream = run_block(model, layer, calls[layer], stream)
            rows = stream.reshape(n, *self.ids.shape, -1)[:, self._each, self.ends]
            normed: Tensor = model.bridge.ln_final(rows)
            return normed

    def hooks(self, edits: Sequence[Edit], n: int) -> list[tuple[str, HookFunction]]:
        """The edits as hooks for a batch of `n` copies of the prompts."""
        return [(node_hook(edit.kind, edit.layer), self._hook(edit, n)) for edit in edits]

    def _hook(self, edit: Edit, n: int) -> HookFunction:
        batch, size = self.ids.shape
        index = n_indices(self._model, edit.kind)
        mask = edit.mask.expand(n, batch, size, index).reshape(n * batch, size, index)
        source = edit.source.expand(n, batch, size, index, -1).reshape(n * batch, size, index, -1)
        return putting(edit.kind, index, mask, source)

    def tiled(self, n: int) -> tuple[Call, ...]:
        """The blocks' arguments for `n` copies of the prompts."""
        if n not in self._calls:
            self._calls = {1: self.run.calls, n: tiled_calls(self._model, self.run, n)}  # one other size at a time
        return self._calls[n]
