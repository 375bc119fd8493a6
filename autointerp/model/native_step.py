"""One new token after cached ones, for transformer_lens's native model, which has no cache of its own.

The plain sum of its parts: norm, q k v, softmax over the cached keys and the token's own, W_O, MLP. Rotary positions
and soft caps are not done here; `one_position.steps_exactly` compares with a whole forward before anything is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from autointerp.model.language_model import HookFunction, LanguageModel


def is_native(model: LanguageModel) -> bool:
    """Whether the model is one that `boot_native` built, with a position embedding."""
    from transformer_lens.model_bridge.sources.native.model import NativeModel

    original = model.bridge.original_model
    return isinstance(original, NativeModel) and original.pos is not None


def native_keys_values(model: LanguageModel, ids: Int[np.ndarray, "window pos"]) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of every layer, each `[window kv_head pos d_head]`."""
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> HookFunction:
        def hook(value: Tensor, hook: Any) -> None:
            kept[name] = value.reshape(*value.shape[:2], model.n_kv_heads, -1).transpose(1, 2)

        return hook

    names = [(f"blocks.{i}.attn.hook_k", f"blocks.{i}.attn.hook_v") for i in range(model.n_layers)]
    with model.hooks([(name, keep(name)) for pair in names for name in pair]):
        model.final_states(model.to_ids(ids))
    return [(kept[k], kept[v]) for k, v in names]


def native_hidden(
    model: LanguageModel,
    tokens: Int[np.ndarray, " row"],
    past: list[tuple[Tensor, Tensor]],
    changes: Mapping[str, HookFunction],
) -> Float[Tensor, "row d_model"]:
    """Output of the final norm for one token a row; `past`: each row's earlier keys and values, by layer; `changes`:
    by the bridge's name of a hook, what is done there, on tensors `[row 1 ...]`."""
    original = model.bridge.original_model
    position = past[0][0].shape[2]
    with torch.no_grad():
        stream: Tensor = original.tok_embed(model.to_ids(tokens)) + original.pos.weight[position]
        for index, (keys, values) in enumerate(past):
            block = original.layers[index]._original_component
            attn = model.bridge.blocks[index].attn
            changed = _changer(changes, index)
            stream = changed("hook_resid_pre", stream)
            normed = block.ln1(stream)
            z = changed("attn.hook_z", _attend(model, attn, normed, keys, values))
            stream = stream + changed("hook_attn_out", attn.o(z))
            if not original.cfg.attn_only:
                stream = stream + changed("hook_mlp_out", _mlp(block, changed, stream))
            stream = changed("hook_resid_post", stream)
        final: Tensor = model.bridge.ln_final(stream)
    return final


def _changer(changes: Mapping[str, HookFunction], layer: int) -> Callable[[str, Tensor], Tensor]:
    """What the hook of that name in the layer makes of a tensor `[row ...]`."""

    def changed(name: str, tensor: Tensor) -> Tensor:
        hook = changes.get(f"blocks.{layer}.{name}")
        found = None if hook is None else hook(tensor[:, None], None)
        return tensor if found is None else found[:, 0]

    return changed


def _mlp(block: Any, changed: Callable[[str, Tensor], Tensor], stream: Tensor) -> Float[Tensor, "row d_model"]:
    """The block's MLP with its neurons as the hook after them leaves them."""
    out = block.mlp.get_submodule("out" if hasattr(block.mlp, "gate") else "fc_out")
    handle = out.register_forward_pre_hook(lambda _module, args: (changed("mlp.hook_post", args[0]),))
    try:
        found: Tensor = block.mlp(block.ln2(stream))
    finally:
        handle.remove()
    return found


def _attend(
    model: LanguageModel,
    attn: Any,
    normed: Float[Tensor, "row d_model"],
    keys: Float[Tensor, "row kv_head pos d_head"],
    values: Float[Tensor, "row kv_head pos d_head"],
) -> Float[Tensor, "row flat"]:
    row, kv, groups = len(normed), model.n_kv_heads, model.n_heads // model.n_kv_heads
    q = attn.q(normed).reshape(row, kv, groups, -1)
    k = torch.cat([keys, attn.k(normed).reshape(row, kv, 1, -1)], dim=2)
    v = torch.cat([values, attn.v(normed).reshape(row, kv, 1, -1)], dim=2)
    scores = torch.einsum("rkgd,rkpd->rkgp", q, k) / attn._original_component.scale
    return torch.einsum("rkgp,rkpd->rkgd", scores.softmax(-1), v).reshape(row, -1)
