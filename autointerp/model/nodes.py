"""The places of a model that can be patched, each as a grid `[batch pos index width]`.

Head nodes have one index a head (k and v: one a key-value head), nodes of the stream a single index. The `pos` of a
pattern is its destination and its width the sources. All of it through hooks that live inside `with` blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autointerp.errors import BadInput, ModelError
from autointerp.model.language_model import HookFunction, LanguageModel

NodeKind = Literal[
    "z", "q", "k", "v", "pattern", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"
]  # fmt: skip
HEAD_NODES = ("z", "q", "k", "v", "pattern")
KINDS: tuple[str, ...] = get_args(NodeKind)
Grids = Mapping[tuple[NodeKind, int], Float[Tensor, "batch pos index width"]]


def node_hook(kind: NodeKind, layer: int) -> str:
    """The bridge's name of a node."""
    return f"blocks.{layer}.attn.hook_{kind}" if kind in HEAD_NODES else f"blocks.{layer}.hook_{kind}"


def n_indices(model: LanguageModel, kind: NodeKind) -> int:
    """How many indices the grid of a node has: heads, key-value heads, or 1."""
    if kind not in HEAD_NODES:
        return 1
    return model.n_kv_heads if kind in ("k", "v") else model.n_heads


def to_grid(kind: NodeKind, tensor: Tensor, n: int) -> Float[Tensor, "batch pos index width"]:
    """A hook's tensor as a grid of `n` indices."""
    if kind == "pattern":
        return tensor.transpose(1, 2)
    return tensor.reshape(*tensor.shape[:2], n, -1)


def from_grid(kind: NodeKind, grid: Float[Tensor, "batch pos index width"], like: Tensor) -> Tensor:
    """The inverse of `to_grid`, in the shape and dtype of the hook's tensor."""
    shaped = grid.transpose(1, 2) if kind == "pattern" else grid.reshape(like.shape)
    return shaped.to(like.dtype)


def putting(
    kind: NodeKind,
    n: int,
    mask: Bool[Tensor, "batch pos index"],
    source: Float[Tensor, "batch pos index width"],
) -> HookFunction:
    """A hook that puts `source` where `mask` says; `n` indices. Either may have batch 1."""

    def put(tensor: Tensor, hook: Any) -> Tensor:
        grid = to_grid(kind, tensor, n)
        return from_grid(kind, torch.where(mask[..., None], source.to(grid.dtype), grid), tensor)

    return put


class NodeReader:
    """Keeps the grids of some nodes `(kind, layer)` of what runs inside its `with` block."""

    def __init__(self, model: LanguageModel, wanted: Iterable[tuple[NodeKind, int]]) -> None:
        self._model, self._names = model, list(dict.fromkeys(wanted))
        self._kept: dict[tuple[NodeKind, int], Tensor] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Raises BadInput where the model has no such node, ModelError where one stays silent."""
        if not self._names:
            yield
            return
        hooks = [(node_hook(kind, layer), self._keep(kind, layer)) for kind, layer in self._names]
        try:
            with self._model.hooks(hooks):
                yield
        except KeyError as error:
            raise BadInput(f"{self._model.name} has no such node: {error}. Choose another --node.") from None
        silent = [f"{kind} {layer}" for kind, layer in self._names if (kind, layer) not in self._kept]
        if silent:
            raise ModelError(f"{self._model.name}: nothing arrived from {silent[0]}, so it cannot be patched.")

    def _keep(self, kind: NodeKind, layer: int) -> HookFunction:
        def hook_function(tensor: Tensor, hook: Any) -> None:
            self._kept[kind, layer] = to_grid(kind, tensor.detach(), n_indices(self._model, kind)).clone()

        return hook_function

    @property
    def grids(self) -> Grids:
        return self._kept


def read_nodes(model: LanguageModel, ids: Int[Tensor, "batch pos"], wanted: Iterable[tuple[NodeKind, int]]) -> Grids:
    """Grids of the named nodes in one unchanged run of the base model."""
    reader = NodeReader(model, wanted)
    with reader.watching():
        model.forward_base(ids)
    return reader.grids


def check_node(model: LanguageModel, kind: NodeKind, ids: Int[Tensor, "batch pos"]) -> None:
    """Raises BadInput where a change of the node would reach nothing: no such place, or one that can only be read.

    `ids`: a few rows of two tokens or more.
    """
    grid = read_nodes(model, ids, [(kind, 0)])[kind, 0]
    mask = torch.ones(grid.shape[:3], dtype=torch.bool, device=grid.device)
    clean = model.final_states(ids)[1]
    with model.hooks([(node_hook(kind, 0), putting(kind, grid.shape[2], mask, grid * 0 + 0.5))]):
        moved = model.final_states(ids)[1]
    if not float((moved - clean).abs().max()) > 0:
        raise BadInput(
            f"{model.name} shows {kind} but does not use what a hook puts there, so it cannot be patched. "
            "Choose another --node."
        )


def require_eval(model: LanguageModel) -> None:
    """Raises ModelError in training mode, where dropout would be read as an effect."""
    if any(module.training for module in model.bridge.original_model.modules()):
        raise ModelError(f"{model.name} is in training mode, so dropout would look like an effect. Call .eval() on it.")
