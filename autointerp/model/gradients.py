"""Gradients of a metric with respect to nodes: one forward and one backward for all nodes and prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from autointerp.errors import ModelError
from autointerp.model.language_model import HookFunction, LanguageModel
from autointerp.model.nodes import NodeKind, n_indices, node_hook, to_grid

Grid = Float[Tensor, "batch pos index width"]


def node_gradients(
    model: LanguageModel,
    ids: Int[Tensor, "batch pos"],
    wanted: Sequence[tuple[NodeKind, int]],
    score: Callable[[Float[Tensor, "batch pos d_model"]], Float[Tensor, " batch"]],
) -> dict[tuple[NodeKind, int], tuple[Grid, Grid]]:
    """Each node's value and the gradient of `score` (one number a prompt, from the final norm's output) at it.

    Raises ModelError where a node is not part of the computation.
    """
    kept: dict[tuple[NodeKind, int], Tensor] = {}
    hidden: list[Tensor] = []
    hooks: list[tuple[str, HookFunction]] = [(node_hook("resid_pre", 0), _start)]
    hooks += [(node_hook(kind, layer), _keeping(kept, (kind, layer))) for kind, layer in wanted]
    handle = model.bridge.ln_final.register_forward_hook(lambda _module, _args, output: hidden.append(output))
    try:
        with torch.enable_grad(), model.bridge.hooks(fwd_hooks=hooks):
            original = model.bridge.original_model
            if hasattr(original, "base_model"):
                original.base_model(ids, use_cache=False)
            else:
                model.bridge(ids)
            total = score(hidden[0]).sum()
            found = torch.autograd.grad(total, [kept[name] for name in wanted], allow_unused=True)
    except (KeyError, RuntimeError) as error:
        raise ModelError(f"{model.name}: no gradient reaches these nodes ({error}). Patch them exactly.") from error
    finally:
        handle.remove()
    out: dict[tuple[NodeKind, int], tuple[Grid, Grid]] = {}
    for name, gradient in zip(wanted, found, strict=True):
        if gradient is None:
            raise ModelError(
                f"{model.name}: {name[0]} of layer {name[1]} is not used by the model. Patch another node."
            )
        n = n_indices(model, name[0])
        out[name] = to_grid(name[0], kept[name].detach(), n).float(), to_grid(name[0], gradient, n).float()
    return out


def _start(tensor: Tensor, hook: Any) -> Tensor:
    """The weights are frozen: the graph begins at the embeddings."""
    return tensor.detach().requires_grad_()


def _keeping(kept: dict[tuple[NodeKind, int], Tensor], name: tuple[NodeKind, int]) -> HookFunction:
    def hook_function(tensor: Tensor, hook: Any) -> Tensor:
        kept[name] = tensor.clone()  # what is handed on is what the rest of the model reads
        return kept[name]

    return hook_function


def differentiable_logits(model: LanguageModel, hidden: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_vocab"]:
    """`LanguageModel.unembed` with gradients."""
    raw: Tensor = model.bridge.unembed(hidden[None])[0].float() * model.logit_scale
    return model.soft_cap * torch.tanh(raw / model.soft_cap) if model.soft_cap else raw
