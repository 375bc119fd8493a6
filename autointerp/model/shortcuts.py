"""Which ways to run on from a changed head are exact on a model: each is tried against full forwards on load.

1. In the first, the middle and the last layer, and in the first of each other make, z of a head is turned round and
   enlarged at all positions after the first; full forwards with that hook give what the final norm should return.
2. The shortcuts are tried one after the other, each with those already proved, and kept where all rows agree.

The change is large, so that a part left out shows: an error may be a thousandth of the change (a twentieth in half
precision), beside rounding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from autointerp.model.head_changes import LayerChanges, Rows
from autointerp.model.language_model import LanguageModel, Shortcuts
from autointerp.model.resume import CleanRun, clean_run, with_changed_z

ORDER = ("rest_of_block", "mlp_apart", "rows", "tiled")
FACTOR = -5.0


@dataclass(frozen=True)
class _Case:
    """Heads of one layer, and the final states of a full forward with each changed alone."""

    layer: int
    heads: tuple[int, ...]
    wanted: Float[Tensor, "change row d_model"]


def find_shortcuts(model: LanguageModel, ids: Int[Tensor, "batch pos"]) -> Shortcuts:
    """The shortcuts that are exact; none where running on from a block is not."""
    if not model.exact_resume:
        return Shortcuts()
    run = clean_run(model, ids)
    rows = _some_rows(ids)
    layers = sorted({0, model.n_layers // 2, model.n_layers - 1, *_first_of_each_make(model)})
    heads = tuple(sorted({0, model.n_heads - 1}))
    cases = [_Case(layer, heads, torch.cat([_full(model, run, layer, h, rows) for h in heads])) for layer in layers]
    found = Shortcuts()
    for name in ORDER:
        tried = replace(found, **{name: True})
        if all(_agrees(replace(model, shortcuts=tried), run, case, rows) for case in cases):
            found = tried
        if not found.rest_of_block:
            break  # the others build on it
    return found


def _first_of_each_make(model: LanguageModel) -> list[int]:
    """The first layer of each sort of block: dense or of experts, with this or that attention."""
    makes = [tuple(type(module).__name__ for module in block.modules()) for block in model.bridge.blocks]
    return [makes.index(make) for make in dict.fromkeys(makes)]


def _some_rows(ids: Int[Tensor, "batch pos"]) -> Rows:
    """Every position of the first window, every other one of the rest: rows need be neither equal nor adjacent."""
    wanted = torch.ones_like(ids, dtype=torch.bool)
    wanted[1:, ::2] = False
    return Rows(*wanted.nonzero(as_tuple=True))


def _changed(z: Float[Tensor, "batch pos d_head"]) -> Float[Tensor, "batch pos d_head"]:
    return torch.cat([z[:, :1], z[:, 1:] * FACTOR], 1)


def _full(model: LanguageModel, run: CleanRun, layer: int, head: int, rows: Rows) -> Float[Tensor, "1 row d_model"]:
    def change(z: Tensor) -> Tensor:
        z[:, :, head] = _changed(z[:, :, head])
        return z

    return rows.of(with_changed_z(replace(model, exact_resume=False), run, layer, change), 1)


def _agrees(model: LanguageModel, run: CleanRun, case: _Case, rows: Rows) -> bool:
    try:
        changes = LayerChanges(model, run, case.layer)
        if model.shortcuts.mlp_apart and not changes.mlp_is_kept:
            return False
        new = torch.stack([_changed(changes.z[:, :, head]) for head in case.heads])
        found = changes.final_rows(case.heads, new, rows)
    except (TypeError, ValueError, IndexError, KeyError, AttributeError, RuntimeError):
        return False  # this architecture's modules cannot be put aside in that way
    clean = rows.of(run.hidden, 1)
    exact = model.dtype == torch.float32
    of_change, of_size = (1e-3, 1e-5) if exact else (5e-2, 1e-2)
    change, size = float((case.wanted - clean).abs().max()), float(clean.abs().max())
    error = float((found - case.wanted).abs().max())
    return found.shape == case.wanted.shape and error <= of_change * change + of_size * size
