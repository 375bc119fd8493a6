"""Run on from one layer with the z of one of its heads replaced, computing only what the change can reach.

1. `LayerChanges` runs the layer's attention once unchanged and keeps z and its output (the MLP's too, where the MLP
   does not read the attention).
2. A changed head moves that output by `(new - z) W_O[head]`. The block runs again with its attention put aside; the
   blocks after it run whole.
3. The last block runs its attention at all positions, and what follows it at the wanted rows only.
4. Changes of several heads may run as one batch. The blocks' other arguments (masks, rotary tables) for a batch of
   that size come from a forward in which every block hands its input on.

Each of these is used where the proof on load found it exact (`shortcuts.find_shortcuts`); without any, each change is
a run of `resume.with_changed_z`. It does not batch changes of different layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from autointerp.model.language_model import LanguageModel
from autointerp.model.resume import Call, CleanRun, clean_run, run_block, with_changed_z


@dataclass(frozen=True)
class Rows:
    """Positions whose final state is wanted."""

    window: Int[Tensor, " row"]
    pos: Int[Tensor, " row"]

    def of(self, states: Float[Tensor, "change_batch pos d"], n: int) -> Float[Tensor, "change row d"]:
        """The rows of each of `n` changes that lie one after the other in the batch."""
        return states.reshape(n, -1, *states.shape[1:])[:, self.window, self.pos]


class LayerChanges:
    """One layer of a clean run, from which changes of its heads run on.

    Keeps z and the output of the layer's attention: two or three residual streams.
    """

    def __init__(self, model: LanguageModel, run: CleanRun, layer: int) -> None:
        self._model, self._run, self._layer = model, run, layer
        self._kept = _keep(model, run, layer)
        self._w_o = model.W_O(layer)
        self._calls: dict[int, tuple[Call, ...]] = {1: run.calls}

    @property
    def z(self) -> Float[Tensor, "batch pos head d_head"]:
        """z of all heads of the layer, unchanged."""
        return self._kept.z

    @property
    def mlp_is_kept(self) -> bool:
        """Whether the layer's MLP does not run again."""
        return self._kept.mlp is not None

    def final_rows(
        self, heads: Sequence[int], new_z: Float[Tensor, "change batch pos d_head"], rows: Rows
    ) -> Float[Tensor, "change row d_model"]:
        """Output of the final norm at `rows`; in change i, z of `heads[i]` alone is `new_z[i]`."""
        shortcuts = self._model.shortcuts
        if shortcuts.tiled and len(heads) > 1:
            return self._together(list(heads), new_z, rows)
        alone = self._alone if shortcuts.rest_of_block else self._resumed
        return torch.cat([alone(head, new, rows) for head, new in zip(heads, new_z, strict=True)])

    def _resumed(self, head: int, new: Float[Tensor, "batch pos d_head"], rows: Rows) -> Float[Tensor, "1 row d_model"]:
        def change(z: Tensor) -> Tensor:
            z[:, :, head] = new.to(z.dtype)
            return z

        return rows.of(with_changed_z(self._model, self._run, self._layer, change), 1)

    def _alone(self, head: int, new: Float[Tensor, "batch pos d_head"], rows: Rows) -> Float[Tensor, "1 row d_model"]:
        return self._together([head], new[None], rows)

    def _together(
        self, heads: list[int], new_z: Float[Tensor, "change batch pos d_head"], rows: Rows
    ) -> Float[Tensor, "change row d_model"]:
        n = len(heads)
        if n not in self._calls:
            self._calls[n] = tiled_calls(self._model, self._run, n)
        own = self._kept.attention.tensor
        move = new_z.float() - self._kept.z[:, :, heads].permute(2, 0, 1, 3).float()
        write = torch.matmul(move.flatten(1, 2), self._w_o[heads]).reshape(n, *own.shape)
        state = _Midway(
            self._run.calls[self._layer].stream.repeat(n, 1, 1),
            self._kept.attention.holding((own + write.to(own.dtype)).flatten(0, 1)),
            None if self._kept.mlp is None else self._kept.mlp.holding(self._kept.mlp.tensor.repeat(n, 1, 1)),
        )
        with torch.no_grad():
            return _Runner(self._model, self._calls[n], n, rows).run(self._layer, state)


@dataclass(frozen=True)
class ModuleOutput:
    """What a module returned: its tensor, and how many other things beside it (None: the bare tensor)."""

    tensor: Tensor
    others: int | None

    @classmethod
    def of(cls, returned: Any) -> ModuleOutput:
        return cls(returned[0], len(returned) - 1) if isinstance(returned, tuple) else cls(returned, None)

    def holding(self, tensor: Tensor) -> ModuleOutput:
        return ModuleOutput(tensor, self.others)

    def returned(self) -> Any:
        return self.tensor if self.others is None else (self.tensor, *[None] * self.others)


@dataclass(frozen=True)
class _Kept:
    """What the unchanged layer computed."""

    z: Float[Tensor, "batch pos head d_head"]
    attention: ModuleOutput
    mlp: ModuleOutput | None


@dataclass(frozen=True)
class _Midway:
    """A block whose attention has run: its input, what its attention returned, and its MLP where that is known."""

    stream: Float[Tensor, "batch pos d_model"]
    attention: ModuleOutput
    mlp: ModuleOutput | None

    def at(self, rows: Rows, n: int) -> _Midway:
        mlp = None if self.mlp is None else self.mlp.holding(rows.of(self.mlp.tensor, n))
        attention = self.attention.holding(rows.of(self.attention.tensor, n))
        return _Midway(rows.of(self.stream, n), attention, mlp)


@dataclass(frozen=True)
class _Runner:
    """Runs `n` changes side by side, up to the final norm at the rows."""

    model: LanguageModel
    calls: tuple[Call, ...]
    n: int
    rows: Rows

    def run(self, layer: int, state: _Midway) -> Float[Tensor, "change row d_model"]:
        last = self.model.n_layers - 1
        if layer < last:
            stream = self._rest(layer, state)
            for index in range(layer + 1, last):
                stream = run_block(self.model, index, self.calls[index], stream)
            if not self.model.shortcuts.rows:
                return self._normed(self.rows.of(run_block(self.model, last, self.calls[last], stream), self.n))
            state = _Midway(stream, run_attention(self.model, last, self.calls[last], stream), None)
        if not self.model.shortcuts.rows:
            return self._normed(self.rows.of(self._rest(last, state), self.n))
        return self._normed(self._rest(last, state.at(self.rows, self.n)))

    def _rest(self, index: int, state: _Midway) -> Float[Tensor, "batch pos d_model"]:
        """The block's output, its attention (and MLP) replaced by what they are known to return."""
        block = self.model.bridge.blocks[index]
        with ExitStack() as stack:
            stack.enter_context(returning(block.attn, state.attention.returned()))
            if state.mlp is not None:
                stack.enter_context(returning(block.mlp, state.mlp.returned()))
            return run_block(self.model, index, self.calls[index], state.stream)

    def _normed(self, stream: Float[Tensor, "change row d_model"]) -> Float[Tensor, "change row d_model"]:
        found: Tensor = self.model.bridge.ln_final(stream)
        return found


class _ReachedError(Exception):
    """Ends a block once its attention has run."""


def run_attention(
    model: LanguageModel, index: int, call: Call, stream: Float[Tensor, "batch pos d_model"]
) -> ModuleOutput:
    """What the block's attention returns; the block ends there."""
    found: list[ModuleOutput] = []

    def keep(_module: object, _args: object, returned: Any) -> None:
        found.append(ModuleOutput.of(returned))
        raise _ReachedError

    handle = model.bridge.blocks[index].attn.register_forward_hook(keep)
    try:
        run_block(model, index, call, stream)
    except _ReachedError:
        return found[0]
    finally:
        handle.remove()
    raise RuntimeError(f"the attention of block {index} did not run")


def _keep(model: LanguageModel, run: CleanRun, layer: int) -> _Kept:
    block, call = model.bridge.blocks[layer], run.calls[layer]
    z: list[Tensor] = []
    mlp: list[ModuleOutput] = []

    def keep_z(tensor: Tensor, hook: Any) -> None:
        z.append(tensor.reshape(*run.ids.shape, model.n_heads, -1))

    with model.hooks([(f"blocks.{layer}.attn.hook_z", keep_z)]):
        attention = run_attention(model, layer, call, call.stream)
    if model.shortcuts.mlp_apart:
        handle = block.mlp.register_forward_hook(lambda _module, _args, returned: mlp.append(ModuleOutput.of(returned)))
        try:
            with torch.no_grad(), returning(block.attn, attention.returned()):
                run_block(model, layer, call, call.stream)
        finally:
            handle.remove()
    return _Kept(z[0], attention, mlp[0] if mlp else None)


def tiled_calls(model: LanguageModel, run: CleanRun, n: int) -> tuple[Call, ...]:
    """Arguments of the blocks for `n` copies of the batch. The blocks themselves do not run, so that the stream in them
    is that of the first: callers put in their own."""

    def passing(call: Call) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            return ModuleOutput(Call(args, kwargs, None).stream, call.others).returned()

        return forward

    with ExitStack() as stack:
        for block, call in zip(model.bridge.blocks, run.calls, strict=True):
            stack.enter_context(with_forward(block, passing(call)))
        return clean_run(model, run.ids.repeat(n, 1)).calls


def returning(module: nn.Module, returned: Any) -> Any:
    return with_forward(module, lambda *_args, **_kwargs: returned)


@contextmanager
def with_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """The module computes `forward` inside the block. (Bridges hand attributes on to the module that they wrap, so
    this is written where the instance itself keeps them.)"""
    before = module.__dict__.get("forward")
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        del module.__dict__["forward"]
        if before is not None:
            module.__dict__["forward"] = before
