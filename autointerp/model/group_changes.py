"""Replace the z of several heads at one destination together, and read that destination.

1. Rows of like destination run as one batch, each cut at its destination: nothing after it can reach it.
2. One forward unchanged, one in which every layer that holds a head of the group has that head's z replaced at the
   row's destination; later heads see what the earlier ones no longer write.

Whole forwards: a group is run once for all its heads, so there is nothing to share with other changes
(`model.one_position` is for many heads, one at a time).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from autointerp.model.language_model import HookFunction, LanguageModel
from autointerp.model.readout import log_probs

Read = Callable[[Int[np.ndarray, " part"], Float[Tensor, "part d_vocab"], Float[Tensor, "part d_vocab"]], None]


@dataclass(frozen=True)
class GroupChange:
    """At destination `dst[i]` of window `window[i]`, for every i, z of head `index[h]` of layer `layer[h]` becomes
    `z[h]`, for all h together. No head stands twice."""

    window: Int[np.ndarray, " row"]
    dst: Int[np.ndarray, " row"]
    layer: Int[np.ndarray, " head"]
    index: Int[np.ndarray, " head"]
    z: Float32[np.ndarray, "head d_head"]


def run_group(
    model: LanguageModel, ids: Int[np.ndarray, "window pos"], change: GroupChange, batch_size: int, read: Read
) -> None:
    """Hand log-probabilities at the destinations to `read`: (numbers of the rows, before, after), every row once.

    `ids` may be padded on the right; `batch_size` rows run together.
    """
    order = np.argsort(change.dst, kind="stable")
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        dst = change.dst[rows].astype(np.int64)
        fed = model.to_ids(ids[change.window[rows], : int(dst.max()) + 1])
        at = torch.arange(len(rows), device=fed.device), torch.from_numpy(dst).to(fed.device)
        before = model.final_states(fed)[1][at]
        with model.hooks([_hook(model, change, int(layer), at) for layer in np.unique(change.layer)]):
            after = model.final_states(fed)[1][at]
        read(rows, log_probs(model, before), log_probs(model, after))


def _hook(
    model: LanguageModel, change: GroupChange, layer: int, at: tuple[Int[Tensor, " row"], Int[Tensor, " row"]]
) -> tuple[str, HookFunction]:
    own = change.layer == layer
    heads = torch.from_numpy(change.index[own].astype(np.int64)).to(model.device)
    new = torch.from_numpy(np.ascontiguousarray(change.z[own])).to(model.device)

    def hook(z: Tensor, hook: Any) -> Tensor:
        changed = z.reshape(*z.shape[:2], model.n_heads, -1).clone()
        changed[at[0][:, None], at[1][:, None], heads] = new.to(z.dtype)
        return changed.reshape(z.shape)

    return f"blocks.{layer}.attn.hook_z", hook
