"""Ablations of z, cuts of attention and changes of one site, as hooks for `sites.read_sites` and for whole forwards.

A replaced z stands for the head's own in every listed row, at its position or everywhere. A cut sets the attention
score from a destination to a source to minus infinity before the softmax, so that the row spreads over its other
sources. Every cut is checked where it shows, in the pattern.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from autointerp.errors import BadInput, ModelError
from autointerp.model.language_model import HookFunction, LanguageModel
from autointerp.model.sites import Batch, Changes, Row, Site, batches, hook_name, run_to
from autointerp.records import Head

Replacement = Callable[[Head, Batch], Tensor]
"""z of a head to put in place of its own, `[batch pos d_head]` (or 1 for either axis)."""


@dataclass(frozen=True)
class ZAblation:
    """`heads[n]`: what row n loses. `everywhere`: at all positions, else at the row's own."""

    heads: Sequence[Sequence[Head]]
    replacement: Replacement
    everywhere: bool = False


@dataclass(frozen=True)
class Cuts:
    """`edges[n]`: (from, to) of row n; in `heads` only, or in all heads of all layers."""

    edges: Sequence[Sequence[tuple[int, int]]]
    heads: Sequence[Head] | None = None


@dataclass(frozen=True)
class SiteChanges:
    """Ablations and cuts together; call it with a batch for the hooks."""

    model: LanguageModel
    ablation: ZAblation | None = None
    cuts: Cuts | None = None

    def __call__(self, batch: Batch) -> list[tuple[str, HookFunction]]:
        return [*self._cut_hooks(batch), *self._z_hooks(batch)]

    def _z_hooks(self, batch: Batch) -> list[tuple[str, HookFunction]]:
        if self.ablation is None:
            return []
        rows: dict[Head, list[int]] = defaultdict(list)
        for row, number in enumerate(batch.numbers.tolist()):
            for head in self.ablation.heads[number]:
                rows[head].append(row)
        return [(hook_name("z", head.layer), self._z_hook(head, listed, batch)) for head, listed in rows.items()]

    def _z_hook(self, head: Head, rows: list[int], batch: Batch) -> HookFunction:
        ablation = self.ablation
        if ablation is None:
            raise BadInput("no ablation was asked for")
        listed = torch.tensor(rows, device=batch.ids.device)

        def change(z: Tensor, hook: Any) -> Tensor:
            shaped = z.clone().reshape(*batch.ids.shape, self.model.n_heads, -1)
            new = ablation.replacement(head, batch).to(shaped).expand(*batch.ids.shape, shaped.shape[-1])
            if ablation.everywhere:
                shaped[listed, :, head.index] = new[listed]
            else:
                at = batch.positions[listed]
                shaped[listed, at, head.index] = new[listed, at]
            return shaped.reshape(z.shape)

        return change

    def _cut_hooks(self, batch: Batch) -> list[tuple[str, HookFunction]]:
        if self.cuts is None:
            return []
        edges = [
            (row, source, destination)
            for row, number in enumerate(batch.numbers.tolist())
            for source, destination in self.cuts.edges[number]
        ]
        if not edges:
            return []
        row, source, destination = torch.tensor(edges, device=batch.ids.device).T
        named = self.cuts.heads
        layers = range(self.model.n_layers) if named is None else sorted({head.layer for head in named})
        hooks: list[tuple[str, HookFunction]] = []
        for layer in layers:
            own = range(self.model.n_heads) if named is None else [h.index for h in named if h.layer == layer]
            heads = torch.tensor(list(own), device=batch.ids.device)
            where = (row[:, None], heads[None, :], destination[:, None], source[:, None])
            hooks.append((hook_name("attn_scores", layer), _cutting(where)))
            hooks.append((hook_name("pattern", layer), self._checking(where, layer)))
        return hooks

    def _checking(self, where: tuple[Tensor, ...], layer: int) -> HookFunction:
        def check(pattern: Tensor, hook: Any) -> None:
            if float(pattern[where].abs().max()) > 0:
                raise ModelError(
                    f"{self.model.name}: attention that was cut still flows in layer {layer}; this architecture shows "
                    "its scores but does not use them. Cuts cannot be made in it."
                )

        return check


def _cutting(where: tuple[Tensor, ...]) -> HookFunction:
    def cut(scores: Tensor, hook: Any) -> Tensor:
        changed = scores.clone()
        changed[where] = float("-inf")
        return changed

    return cut


def z_pool(
    model: LanguageModel, rows: Sequence[Row], heads: Sequence[Head], *, everywhere: bool, batch_size: int = 16
) -> dict[Head, Float[Tensor, "vector d_head"]]:
    """z of heads in an unchanged run, at the rows' positions or at all that are no pad, position 0 or control token."""
    found: dict[Head, list[Tensor]] = {head: [] for head in heads}
    layers = sorted({head.layer for head in heads})
    for batch in batches(model, rows, batch_size):
        places = torch.arange(batch.ids.shape[1], device=batch.ids.device)
        if everywhere:
            special = torch.tensor(model.special_ids, dtype=batch.ids.dtype, device=batch.ids.device)
            kept = (places < batch.lengths[:, None]) & (places > 0) & ~torch.isin(batch.ids, special)
        else:
            kept = places == batch.positions[:, None]

        def keep(layer: int, kept: Tensor = kept, batch: Batch = batch) -> HookFunction:
            def hook_function(z: Tensor, hook: Any) -> None:
                shaped = z.detach().reshape(*batch.ids.shape, model.n_heads, -1)[kept].float().cpu()
                for head in heads:
                    if head.layer == layer:
                        found[head].append(shaped[:, head.index])

            return hook_function

        with model.hooks([(hook_name("z", layer), keep(layer)) for layer in layers]):
            run_to(model, batch.ids, max(layers) + 1)
    return {head: torch.cat(parts) for head, parts in found.items()}


ChangeVector = Callable[[Float[Tensor, "batch d"], Batch], Float[Tensor, "batch d"]]


def changing_site(model: LanguageModel, site: Site, change: ChangeVector) -> Changes:
    """Put `change(vector)` in place of the vector that `site` has at each row's position.

    A head's `result` is changed by adding the difference to the layer's attention output. Raises BadInput for sites
    that are not written anywhere (`pattern_row` and those that feed controls).
    """
    read = site.check(model)
    if read.kind in ("pattern_row", "mixed", "uniform_z"):
        raise BadInput(f"{site} is read, not written; change z, result or a residual site.")

    def hooks(batch: Batch) -> list[tuple[str, HookFunction]]:
        each = torch.arange(len(batch.ids), device=batch.ids.device)
        at = batch.positions
        seen: dict[str, Tensor] = {}

        def take_z(z: Tensor, hook: Any) -> None:
            own = z.reshape(*batch.ids.shape, model.n_heads, -1)[each, at, read.index].float()
            seen["result"] = own @ model.W_O(read.layer)[read.index]

        def add(out: Tensor, hook: Any) -> Tensor:
            changed, own = out.clone(), seen["result"]
            changed[each, at] += (change(own, batch) - own).to(out)
            return changed

        def replace_z(z: Tensor, hook: Any) -> Tensor:
            shaped = z.clone().reshape(*batch.ids.shape, model.n_heads, -1)
            shaped[each, at, read.index] = change(shaped[each, at, read.index].float(), batch).to(shaped)
            return shaped.reshape(z.shape)

        def replace(stream: Tensor, hook: Any) -> Tensor:
            changed = stream.clone()
            changed[each, at] = change(changed[each, at].float(), batch).to(stream)
            return changed

        if read.kind == "result":
            return [(hook_name("z", read.layer), take_z), (hook_name("attn_out", read.layer), add)]
        return [(hook_name(read.kind, read.layer), replace_z if read.kind == "z" else replace)]

    return hooks


def final_hidden(
    model: LanguageModel, batch: Batch, changes: Changes | None = None
) -> Float[Tensor, "batch pos d_model"]:
    """Output of the final norm of a whole forward with the changes."""
    with model.hooks(list(changes(batch)) if changes else []):
        return model.final_states(batch.ids)[1]
