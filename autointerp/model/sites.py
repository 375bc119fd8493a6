"""What a probe reads of a model at one position a text, and what is changed while it reads.

1. Texts are sorted by length, batched and padded on the right: causal attention needs no mask for that.
2. One forward serves all sites of a batch. It stops after the last layer that a site needs, before the unembedding.
3. Ablations of z and cuts of attention are hooks too and come first, so that what is read is what they left.

A head's `result` is `z W_O`, without the output bias; it is made from z. Hooks live only inside `with` blocks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from autointerp.errors import BadInput, ModelError
from autointerp.model.language_model import HookFunction, LanguageModel
from autointerp.records import Head

Kind = Literal[
    "z", "result", "pattern_row", "attn_out", "mlp_out", "resid_pre", "resid_mid", "resid_post", "mixed", "uniform_z"
]
HEAD_KINDS = ("z", "result", "pattern_row", "uniform_z", "mixed")
LAYER_KINDS = ("attn_out", "mlp_out", "resid_pre", "resid_mid", "resid_post")
_KINDS: dict[str, Kind] = {kind: kind for kind in get_args(Kind)}
NEAR = 9  # `pattern_row` holds the shares at distances 0 to 8, then sink mass and entropy


@dataclass(frozen=True, order=True)
class Site:
    """A place in the model; `head` only at sites of heads. Prints and parses as `z L5H1` or `resid_pre 3`.

    Two kinds feed controls: `mixed` is the head's attention-weighted sum of what the layer's attention reads (the
    normed stream, d_model), `uniform_z` the head's values averaged over all sources.
    """

    kind: Kind
    layer: int
    index: int = -1  # the head, -1 at sites of a layer

    def __str__(self) -> str:
        return f"{self.kind} L{self.layer}H{self.index}" if self.kind in HEAD_KINDS else f"{self.kind} {self.layer}"

    @property
    def head(self) -> Head | None:
        return Head(layer=self.layer, index=self.index) if self.kind in HEAD_KINDS else None

    @classmethod
    def of_head(cls, kind: Kind, head: Head) -> Site:
        return cls(kind, head.layer, head.index)

    @classmethod
    def parse(cls, text: str) -> Site:
        """Read what `str` gives; raises BadInput otherwise."""
        match = re.fullmatch(r"(\w+) (?:L(\d+)H(\d+)|(-?\d+))", text)
        if match is not None and match[1] in HEAD_KINDS and match[2] is not None:
            return cls(_KINDS[match[1]], int(match[2]), int(match[3]))
        if match is not None and match[1] in LAYER_KINDS and match[4] is not None:
            return cls(_KINDS[match[1]], int(match[4]))
        raise BadInput(f"{text!r} is no site; write `z L5H1` or `resid_pre 3`.")

    def check(self, model: LanguageModel) -> Site:
        """The site as read (`resid_pre 0` for layer -1). Raises BadInput where the model has no such place."""
        if self.kind in LAYER_KINDS:
            if self.kind.startswith("resid") and self.layer == -1:
                return Site("resid_pre", 0)
            if not 0 <= self.layer < model.n_layers:
                raise BadInput(f"site {self}: the model has layers 0 to {model.n_layers - 1}. Name one of those.")
            return self
        if not (0 <= self.layer < model.n_layers and 0 <= self.index < model.n_heads):
            raise BadInput(
                f"site {self}: the model has layers 0 to {model.n_layers - 1} with heads 0 to {model.n_heads - 1}. "
                "Name one of those."
            )
        return self


@dataclass(frozen=True, eq=False)
class Row:
    """One text as fed and the position to read."""

    ids: Int[np.ndarray, " pos"]
    position: int


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of like length, padded on the right; `numbers` are their places in the whole list."""

    ids: Int[Tensor, "batch pos"]
    lengths: Int[Tensor, " batch"]
    positions: Int[Tensor, " batch"]
    numbers: Int[Tensor, " batch"]


Changes = Callable[[Batch], Sequence[tuple[str, HookFunction]]]
"""The hooks that change a batch; they run before those that read."""


def batches(model: LanguageModel, rows: Sequence[Row], batch_size: int) -> Iterator[Batch]:
    """Rows in order of length, `batch_size` at a time."""
    order = sorted(range(len(rows)), key=lambda n: len(rows[n].ids))
    for start in range(0, len(order), batch_size):
        numbers = order[start : start + batch_size]
        size = len(rows[numbers[-1]].ids)
        ids = np.zeros((len(numbers), size), dtype=np.int64)
        for place, number in enumerate(numbers):
            ids[place, : len(rows[number].ids)] = rows[number].ids
        yield Batch(
            model.to_ids(ids),
            torch.tensor([len(rows[n].ids) for n in numbers], device=model.device),
            torch.tensor([rows[n].position for n in numbers], device=model.device),
            torch.tensor(numbers),
        )


def read_sites(
    model: LanguageModel,
    rows: Sequence[Row],
    sites: Sequence[Site],
    changes: Changes | None = None,
    batch_size: int = 16,
) -> dict[Site, Float[Tensor, "item d"]]:
    """The vector of each site at each row's position, float32 on the CPU, in the order of `rows`.

    Raises BadInput for a site that the model does not have, ModelError where a hook stays silent.
    """
    wanted = {site: site.check(model) for site in sites}
    found: dict[Site, Tensor] = {}
    stop = max((site.layer for site in wanted.values()), default=-1) + 1
    for batch in batches(model, rows, batch_size):
        reader = _Reader(model, sorted(set(wanted.values())), batch)
        try:
            with model.hooks([*(changes(batch) if changes else ()), *reader.hooks()]):
                run_to(model, batch.ids, stop)
        except KeyError as error:
            raise BadInput(f"{model.name} has no such site: {error}. Choose another.") from None
        for site, vectors in reader.vectors().items():
            into = found.setdefault(site, torch.empty(len(rows), vectors.shape[1]))
            into[batch.numbers] = vectors
    return {site: found[read] for site, read in wanted.items()}


def run_to(model: LanguageModel, ids: Int[Tensor, "batch pos"], n_blocks: int) -> None:
    """Run the first `n_blocks` blocks, or the whole base model without the unembedding."""
    if n_blocks < model.n_layers:
        model.bridge(ids, stop_at_layer=n_blocks)
    else:
        model.forward_base(ids)


class _Reader:
    """Takes from each hook what the sites of a batch need, and keeps no more."""

    def __init__(self, model: LanguageModel, sites: Sequence[Site], batch: Batch) -> None:
        self._model, self._sites, self._batch = model, sites, batch
        self._kept: dict[tuple[str, int], Tensor] = {}
        self._each = torch.arange(len(batch.ids), device=batch.ids.device)

    def hooks(self) -> list[tuple[str, HookFunction]]:
        needed: dict[tuple[str, int], None] = {}
        for site in self._sites:
            needed.update(dict.fromkeys((part, site.layer) for part in _PARTS.get(site.kind, (site.kind,))))
        order = sorted(needed, key=lambda one: (one[1], _ORDER.index(one[0]) if one[0] in _ORDER else 0))
        return [(hook_name(part, layer), self._hook(part, layer)) for part, layer in order]

    def _hook(self, part: str, layer: int) -> HookFunction:
        def keep(tensor: Tensor, hook: Any) -> None:
            self._kept[part, layer] = self._taken(part, layer, tensor.detach())

        return keep

    def _taken(self, part: str, layer: int, tensor: Tensor) -> Tensor:
        at = self._batch.positions
        size = tensor.shape[1]
        if part == "pattern":  # [batch head src], the row of the position
            return tensor[self._each, :, at].float()
        if part == "z":
            return tensor.reshape(len(at), size, self._model.n_heads, -1)[self._each, at].float()
        if part == "v":
            v = self._model.expand_kv(tensor.reshape(len(at), size, -1, self._d_head(layer)).float())
            allowed = (torch.arange(size, device=at.device) <= at[:, None]).float()
            return torch.einsum("bs,bshd->bhd", allowed, v) / allowed.sum(1)[:, None, None]
        if part == "in":
            return tensor.float()
        return tensor[self._each, at].float()

    def _d_head(self, layer: int) -> int:
        return int(self._model.W_O(layer).shape[1])

    def vectors(self) -> dict[Site, Float[Tensor, "batch d"]]:
        return {site: self._vector(site).float().cpu() for site in self._sites}

    def _vector(self, site: Site) -> Float[Tensor, "batch d"]:
        missing = [p for p in _PARTS.get(site.kind, (site.kind,)) if (p, site.layer) not in self._kept]
        if missing:
            raise ModelError(f"{self._model.name}: nothing arrived from {missing[0]} of layer {site.layer}, so {site} "
                             "cannot be read. Choose another site.")  # fmt: skip
        if site.kind == "pattern_row":
            return self._pattern_features(self._kept["pattern", site.layer][:, site.index])
        if site.kind == "mixed":
            return torch.einsum(
                "bs,bsm->bm", self._kept["pattern", site.layer][:, site.index], self._kept["in", site.layer]
            )
        if site.kind == "uniform_z":
            return self._kept["v", site.layer][:, site.index]
        if site.kind in ("z", "result"):
            z = self._kept["z", site.layer][:, site.index]
            return z if site.kind == "z" else z @ self._model.W_O(site.layer)[site.index]
        return self._kept[site.kind, site.layer]

    def _pattern_features(self, pattern: Float[Tensor, "batch src"]) -> Float[Tensor, "batch 11"]:
        """Shares (attention renormalised off the sink) at distances 0 to 8, sink mass, entropy in [0, 1]."""
        at, ids = self._batch.positions, self._batch.ids
        sink = torch.isin(ids, torch.tensor(self._model.special_ids, dtype=ids.dtype, device=ids.device))
        sink[:, 0] = True
        past = torch.arange(ids.shape[1], device=at.device) <= at[:, None]
        allowed = past & ~sink
        mass = (pattern * allowed).sum(1, keepdim=True)
        share = pattern * allowed / mass.clamp_min(1e-9)
        places = at[:, None] - torch.arange(NEAR, device=at.device)
        near = torch.where(places >= 0, share.gather(1, places.clamp_min(0)), 0.0)
        n = allowed.sum(1, keepdim=True)
        entropy = -(share * share.clamp_min(1e-30).log()).sum(1, keepdim=True) / n.clamp_min(2).log()
        return torch.cat([near, (pattern * (past & sink)).sum(1, keepdim=True), entropy], dim=1)


_PARTS = {
    "z": ("z",),
    "result": ("z",),
    "pattern_row": ("pattern",),
    "mixed": ("in", "pattern"),
    "uniform_z": ("v",),
}
_ORDER = ("in", "v", "pattern", "z")
_ATTENTION = (*_ORDER, "attn_scores")


def hook_name(part: str, layer: int) -> str:
    """The bridge's name of a part of a layer."""
    return f"blocks.{layer}.attn.hook_{part}" if part in _ATTENTION else f"blocks.{layer}.hook_{part}"


def has_resid_mid(model: LanguageModel) -> bool:
    """Whether the blocks have a stream between attention and MLP (parallel blocks do not)."""
    try:
        with model.hooks([(hook_name("resid_mid", 0), lambda tensor, hook: None)]):
            return True
    except (KeyError, ValueError):
        return False
