"""Changed heads run on with all other heads frozen: pass C of path patching (arXiv 2211.00593), batched.

1. One clean run keeps the stream before every block, what each block's attention returned, and its MLP's output.
2. With the attention put aside, what is left of a block works on each position alone. So only the wanted rows (window,
   position) run, and senders of all layers share one batch: a sender joins it at its own layer, where the attention
   output moves by `(new z - z) W_O`.
3. Frozen MLPs are put aside in the same way; frozen norms keep the divisor of the clean run.

The same numbers as one whole forward a sender with a hook on z in every layer, at a fraction of the price. Models
whose attention cannot be put aside (`Shortcuts.rest_of_block`, `Shortcuts.rows`) are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from autointerp.errors import ModelError
from autointerp.model.frozen_norm import FrozenNorm
from autointerp.model.head_changes import ModuleOutput, Rows, returning, run_attention, with_forward
from autointerp.model.language_model import HookFunction, LanguageModel
from autointerp.model.nodes import n_indices, node_hook, to_grid
from autointerp.model.resume import Call, CleanRun, run_block

Freeze = Literal["recompute", "freeze"]
Receiving = Literal["q", "k", "v"]
Moves = Mapping[int, Mapping[int, Float[Tensor, "row d_model"]]]
"""By layer and variant: what is added to the layer's attention output at the rows."""


@dataclass(frozen=True)
class PathRules:
    """What is recomputed on the way from a sender to a receiver."""

    mlps: Freeze = "recompute"
    norms: Freeze = "recompute"


class HeadsFrozen:
    """A clean run of which every head stays as it was but for the moves; read at rows.

    The clean run is made by `clean_run` (or a `BaseRun`) inside `watching`, and then handed to `take`.
    """

    def __init__(self, model: LanguageModel, rows: Rows, rules: PathRules) -> None:
        if not (model.exact_resume and model.shortcuts.rest_of_block and model.shortcuts.rows):
            raise ModelError(
                f"{model.name}: its attention cannot be put aside exactly, so heads cannot be frozen fast. "
                "Path patching does not support this architecture."
            )
        self._model, self._rows, self._rules = model, rows, rules
        self._attention: list[ModuleOutput] = []
        self._mlp: list[ModuleOutput] = []
        self._norms: dict[int, tuple[FrozenNorm, Tensor]] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Keeps what attention and MLPs return at the rows."""

        def keep(into: list[ModuleOutput]) -> Any:
            def hook(_module: object, _args: object, returned: Any) -> None:
                found = ModuleOutput.of(returned)
                into.append(found.holding(found.tensor[self._rows.window, self._rows.pos][None]))

            return hook

        handles = []
        try:
            for block in self._model.bridge.blocks:
                handles.append(block.attn.register_forward_hook(keep(self._attention)))
                if self._rules.mlps == "freeze":
                    handles.append(block.mlp.register_forward_hook(keep(self._mlp)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def take(self, run: CleanRun) -> HeadsFrozen:
        """Ready to run on from what was watched."""
        n = self._model.n_layers
        if self._rules.mlps == "freeze" and len(self._mlp) != n:
            raise ModelError(f"{self._model.name} has no MLP module that could be put aside. Recompute the MLPs.")
        if len(self._attention) != n:
            raise ModelError(
                f"{len(self._attention)} attention layers ran while watching, not {n}. Watch one clean run."
            )
        self.run = run
        if self._rules.norms == "freeze" and self._rules.mlps == "recompute":
            self._norms = {layer: self._norm_before_mlp(layer) for layer in range(n)}
        return self

    def stream(self, layer: int) -> Float[Tensor, "row d_model"]:
        """The unchanged stream before a block (after the last for `layer == n_layers`)."""
        whole = self.run.calls[layer].stream if layer < self._model.n_layers else self.run.residual
        return whole[self._rows.window, self._rows.pos]

    def run_on(self, moves: Moves, last: int) -> Iterator[tuple[int, list[int], Float[Tensor, "variant row d_model"]]]:
        """After each block up to `last - 1` in which a variant moves: (next layer, the variants that have moved so
        far, their streams before that layer)."""
        active: list[int] = []
        streams = self.stream(0)[:0]
        for layer in range(last):
            here = moves.get(layer, {})
            new = sorted(set(here) - set(active))
            clean = self.stream(layer).expand(len(new), -1, -1)
            streams = torch.cat([streams, clean]) if active else clean
            active = [*active, *new]
            if not active:
                continue
            own = self._attention[layer].tensor
            write = torch.stack([here[v] if v in here else torch.zeros_like(own[0]) for v in active])
            with torch.no_grad():
                streams = self._block(layer, streams, own + write.to(own.dtype))
            yield layer + 1, list(active), streams

    def _block(
        self, layer: int, streams: Float[Tensor, "variant row d_model"], attention: Float[Tensor, "variant row d_model"]
    ) -> Float[Tensor, "variant row d_model"]:
        block = self._model.bridge.blocks[layer]
        with ExitStack() as stack:
            stack.enter_context(returning(block.attn, self._attention[layer].holding(attention).returned()))
            if self._rules.mlps == "freeze":
                mlp = self._mlp[layer]
                kept = mlp.holding(mlp.tensor.expand(len(streams), -1, -1))
                stack.enter_context(returning(block.mlp, kept.returned()))
            elif layer in self._norms:
                norm, scale = self._norms[layer]
                stack.enter_context(with_forward(norm.module, _frozen(norm, scale)))
            return run_block(self._model, layer, self.run.calls[layer], streams)

    def _norm_before_mlp(self, layer: int) -> tuple[FrozenNorm, Float[Tensor, " row"]]:
        """The norm that the block runs between its attention and its MLP, and its clean divisors at the rows."""
        block = self._model.bridge.blocks[layer]
        module = getattr(block, "ln2", None)
        seen: list[Tensor] = []
        if module is not None and self._model.direct_writes:
            handle = module.register_forward_hook(lambda _module, args, _output: seen.append(args[0].detach()))
            try:
                with torch.no_grad(), returning(block.attn, self._attention[layer].returned()):
                    run_block(self._model, layer, self.run.calls[layer], self.stream(layer)[None])
            finally:
                handle.remove()
        if len(seen) != 1 or seen[0].ndim != 3:
            raise ModelError(
                f"{self._model.name}: block {layer} has no single norm before its MLP, so norms cannot be frozen while "
                "MLPs are recomputed. Freeze the MLPs too, or recompute the norms."
            )
        norm = FrozenNorm.of(module, seen[0][0])
        return norm, norm.scale(seen[0][0])


def _frozen(norm: FrozenNorm, scale: Float[Tensor, " row"]) -> Any:
    def forward(x: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        return norm.apply(x, scale.expand(x.shape[:-1])).to(x.dtype)

    return forward


@dataclass(frozen=True, eq=False)
class Receivers:
    """What is read of a layer: its q, k or v. `call`: the block's arguments for a batch of that size; `clean`: the
    unchanged streams, whose divisors the norm before the attention keeps (None recomputes them)."""

    layer: int
    kinds: tuple[Receiving, ...]
    call: Call
    clean: Float[Tensor, "batch pos d_model"] | None = None


def receiver_inputs(
    model: LanguageModel, wanted: Receivers, streams: Float[Tensor, "batch pos d_model"]
) -> dict[Receiving, Float[Tensor, "batch pos index width"]]:
    """q, k or v that a layer's heads make of changed streams, as grids."""
    layer, kinds, clean = wanted.layer, wanted.kinds, wanted.clean
    kept: dict[Receiving, Tensor] = {}

    def keep(kind: Receiving) -> HookFunction:
        def hook_function(tensor: Tensor, hook: Any) -> None:
            kept[kind] = to_grid(kind, tensor.detach(), n_indices(model, kind)).clone()

        return hook_function

    with ExitStack() as stack:
        if clean is not None:
            module = getattr(model.bridge.blocks[layer], "ln1", None)
            if module is None or not model.norm_before:
                raise ModelError(f"{model.name}: no norm runs before its attention, so none can be frozen there.")
            norm = FrozenNorm.of(module, clean[0])
            stack.enter_context(with_forward(module, _frozen(norm, norm.scale(clean))))
        stack.enter_context(model.hooks([(node_hook(kind, layer), keep(kind)) for kind in kinds]))
        run_attention(model, layer, wanted.call, streams)
    missing = [kind for kind in kinds if kind not in kept]
    if missing:
        raise ModelError(f"{model.name}: nothing arrived from {missing[0]} of layer {layer}; it cannot be a receiver.")
    return kept
