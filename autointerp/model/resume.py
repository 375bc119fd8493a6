"""Change one layer's z and run only what comes after it.

1. One clean run keeps each block's arguments (a forward pre-hook with keyword arguments, no cache).
2. For a change at layer l, blocks l, l+1, ... run again with the changed stream and their own other arguments.
3. The final norm follows; the unembedding is left to the caller, for the positions that are scored.

Exact on every architecture whose proof on load (`instrument.prove`) found it exact; elsewhere a full forward with
the same hook is run instead. It does not handle blocks that read the stream of any block but the one before.
`head_changes` runs many changes of one layer faster.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from autointerp.model.language_model import HookFunction, LanguageModel

ChangeZ = Callable[[Tensor], Tensor]  # z [batch pos head d_head] -> z, may write in place


@dataclass(frozen=True)
class Call:
    """The arguments of one block, and how many things it returned beside the stream (None: a bare tensor)."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    others: int | None

    @property
    def stream(self) -> Float[Tensor, "batch pos d_model"]:
        found: Tensor = self.kwargs["hidden_states"] if "hidden_states" in self.kwargs else self.args[0]
        return found


@dataclass(frozen=True)
class CleanRun:
    """One unchanged forward: the final norm's input and output, and what is needed to run again from any block."""

    ids: Int[Tensor, "batch pos"]
    residual: Float[Tensor, "batch pos d_model"]
    hidden: Float[Tensor, "batch pos d_model"]
    calls: tuple[Call, ...]  # one a block


def clean_run(model: LanguageModel, ids: Int[Tensor, "batch pos"]) -> CleanRun:
    """Run `ids` unchanged and keep every block's arguments (one residual stream a layer)."""
    calls: list[Call] = []

    def keep(_module: object, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        calls.append(Call(args, dict(kwargs), len(output) - 1 if isinstance(output, tuple) else None))

    handles = [b.register_forward_hook(keep, with_kwargs=True) for b in model.bridge.blocks]
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
    return run_hooked(model, run, layer, [(f"blocks.{layer}.attn.hook_z", _changing(model.n_heads, change))])


def run_hooked(
    model: LanguageModel,
    run: CleanRun,
    layer: int,
    hooks: Sequence[tuple[str, HookFunction]],
    stream: Float[Tensor, "batch pos d_model"] | None = None,
) -> Float[Tensor, "batch pos d_model"]:
    """Output of the final norm with `hooks`, none of which stands before the block `layer`. `stream`: what enters that
    block, where the run did not keep it (`head_changes.tiled_calls` keeps all but the streams)."""
    with model.hooks(hooks):
        if not model.exact_resume:
            return model.final_states(run.ids)[1]
        return _run_from(model, run, layer, run.calls[layer].stream if stream is None else stream)


def run_block(model: LanguageModel, index: int, call: Call, stream: Tensor) -> Float[Tensor, "batch pos d_model"]:
    """Block `index` on `stream`, with the other arguments of `call`."""
    block = model.bridge.blocks[index]
    if "hidden_states" in call.kwargs:
        output = block(*call.args, **(call.kwargs | {"hidden_states": stream}))
    else:
        output = block(stream, *call.args[1:], **call.kwargs)
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found


def _run_from(
    model: LanguageModel, run: CleanRun, layer: int, stream: Float[Tensor, "batch pos d_model"]
) -> Float[Tensor, "batch pos d_model"]:
    for index in range(layer, model.n_layers):
        stream = run_block(model, index, run.calls[index], stream)
    final: Tensor = model.bridge.ln_final(stream)
    return final


def _changing(n_heads: int, change: ChangeZ) -> HookFunction:
    def hook(z: Tensor, hook: Any) -> Tensor:
        shape = z.shape
        changed = change(z.reshape(shape[0], shape[1], n_heads, -1).clone())
        return changed.to(z.dtype).reshape(shape)

    return hook
