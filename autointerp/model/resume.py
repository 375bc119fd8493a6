"""Change one layer's z and run only what comes after it.

1. One clean run keeps each block's arguments (a forward pre-hook with keyword arguments, no cache).
2. For a change at layer l, blocks l, l+1, ... run again with the changed stream and their own other arguments.
3. The final norm follows; the unembedding is left to the caller, for the positions that are scored.

Exact on every architecture whose proof on load (`instrument.prove`) found it exact; elsewhere a full forward with
the same hook is run instead. It does not handle blocks that read the stream of any block but the one before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from autointerp.model.language_model import HookFunction, LanguageModel

ChangeZ = Callable[[Tensor], Tensor]  # z [batch pos head d_head] -> z, may write in place


@dataclass(frozen=True)
class CleanRun:
    """One unchanged forward: the final norm's input and output, and what is needed to run again from any block."""

    ids: Int[Tensor, "batch pos"]
    residual: Float[Tensor, "batch pos d_model"]
    hidden: Float[Tensor, "batch pos d_model"]
    calls: tuple[tuple[tuple[Any, ...], dict[str, Any]], ...]  # arguments of each block


def clean_run(model: LanguageModel, ids: Int[Tensor, "batch pos"]) -> CleanRun:
    """Run `ids` unchanged and keep every block's arguments (one residual stream a layer)."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def keep(_module: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append((args, dict(kwargs)))

    handles = [b.register_forward_pre_hook(keep, with_kwargs=True) for b in model.bridge.blocks]
    try:
        residual, hidden = model.final_states(ids)
    finally:
        for handle in handles:
            handle.remove()
    return CleanRun(ids, residual, hidden, tuple(calls))


def with_changed_z(
    model: LanguageModel, run: CleanRun, layer: int, change: ChangeZ
) -> Float[Tensor, "batch pos d_model"]:
    """Output of the final norm when the heads' z at `layer` is replaced by `change(z)`; all downstream recomputed."""
    hook = (f"blocks.{layer}.attn.hook_z", _changing(model.n_heads, change))
    with model.hooks([hook]):
        if not model.exact_resume:
            return model.final_states(run.ids)[1]
        return _run_from(model, run, layer)


def _run_from(model: LanguageModel, run: CleanRun, layer: int) -> Float[Tensor, "batch pos d_model"]:
    args, kwargs = run.calls[layer]
    hidden = _first(model.bridge.blocks[layer](*args, **kwargs))
    for index in range(layer + 1, model.n_layers):
        args, kwargs = run.calls[index]
        if "hidden_states" in kwargs:
            hidden = _first(model.bridge.blocks[index](*args, **(kwargs | {"hidden_states": hidden})))
        else:
            hidden = _first(model.bridge.blocks[index](hidden, *args[1:], **kwargs))
    final: Tensor = model.bridge.ln_final(hidden)
    return final


def _first(output: Any) -> Tensor:
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found


def _changing(n_heads: int, change: ChangeZ) -> HookFunction:
    def hook(z: Tensor, hook: Any) -> Tensor:
        shape = z.shape
        changed = change(z.reshape(shape[0], shape[1], n_heads, -1).clone())
        return changed.to(z.dtype).reshape(shape)

    return hook
