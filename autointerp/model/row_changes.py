"""What may be changed at one destination of a row: a head's z set to something, or a vector added at a hook.

Both come as lists of rows, each with its window and destination, and say which hooks they need and what these do to
the rows' numbers. `one_position` runs them, whatever they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from autointerp.errors import BadInput
from autointerp.model.language_model import LanguageModel
from autointerp.model.sites import hook_name
from autointerp.model.unit_sites import UnitSite

Edit = Callable[[Tensor], Tensor]  # what a hook holds at some rows' destinations, [part ...] -> what it shall hold


@dataclass(frozen=True, eq=False)
class HookEdit:
    """`edit` is made at hook `name` for the rows `rows` of the changes that it comes from."""

    name: str
    rows: Int[np.ndarray, " part"]
    edit: Edit


class Changes(Protocol):
    """Row i is destination `dst[i]` of window `window[i]`, changed in one place."""

    @property
    def window(self) -> Int[np.ndarray, " row"]: ...

    @property
    def dst(self) -> Int[np.ndarray, " row"]: ...

    @property
    def layer(self) -> Int[np.ndarray, " row"]:
        """The block in which the change is made: those before it need not run again."""

    def __len__(self) -> int: ...

    def take(self, rows: Int[np.ndarray, " part"]) -> Self: ...

    def edits(self, model: LanguageModel) -> list[HookEdit]:
        """Every row is in one of them."""


@dataclass(frozen=True)
class RowChanges:
    """Row i is destination `dst[i]` of window `window[i]`, with z of head `head[i]` of layer `layer[i]` there
    replaced by `z[i]`."""

    window: Int[np.ndarray, " row"]
    dst: Int[np.ndarray, " row"]
    layer: Int[np.ndarray, " row"]
    head: Int[np.ndarray, " row"]
    z: Float32[np.ndarray, "row d_head"]

    def __len__(self) -> int:
        return len(self.dst)

    def take(self, rows: Int[np.ndarray, " part"]) -> RowChanges:
        return RowChanges(self.window[rows], self.dst[rows], self.layer[rows], self.head[rows], self.z[rows])

    def edits(self, model: LanguageModel) -> list[HookEdit]:
        found: list[HookEdit] = []
        for layer in np.unique(self.layer):
            rows = np.flatnonzero(self.layer == layer)
            found.append(HookEdit(hook_name("z", int(layer)), rows, self._setting(model, rows)))
        return found

    def _setting(self, model: LanguageModel, rows: Int[np.ndarray, " part"]) -> Edit:
        head, new = _put(model, self.head[rows].astype(np.int64)), _put(model, self.z[rows])

        def edit(z: Tensor) -> Tensor:
            changed = z.reshape(len(rows), model.n_heads, -1).clone()
            changed[torch.arange(len(rows), device=z.device), head] = new.to(z.dtype)
            return changed.reshape(z.shape)

        return edit


@dataclass(frozen=True, eq=False)
class RowAdditions:
    """Row i is destination `dst[i]` of window `window[i]`, with `amount[i]` times direction `direction[i]` of hook
    `hook[i]` added there.

    `hooks`: names of the bridge's hooks; `bank`: the directions of each, on the model's device. Many rows may share a
    direction, so that vectors are made for the rows of a batch alone.
    """

    window: Int[np.ndarray, " row"]
    dst: Int[np.ndarray, " row"]
    hook: Int[np.ndarray, " row"]
    direction: Int[np.ndarray, " row"]
    amount: Float32[np.ndarray, " row"]
    hooks: tuple[str, ...]
    bank: tuple[Float[Tensor, "direction _"], ...]

    def __len__(self) -> int:
        return len(self.dst)

    @property
    def layer(self) -> Int[np.ndarray, " row"]:
        layers: Int[np.ndarray, " hook"] = np.array([int(name.split(".")[1]) for name in self.hooks], np.int64)
        return np.asarray(layers[self.hook])

    def take(self, rows: Int[np.ndarray, " part"]) -> RowAdditions:
        chosen = (self.window[rows], self.dst[rows], self.hook[rows], self.direction[rows], self.amount[rows])
        return RowAdditions(*chosen, self.hooks, self.bank)

    def edits(self, model: LanguageModel) -> list[HookEdit]:
        found: list[HookEdit] = []
        for number in np.unique(self.hook):
            rows = np.flatnonzero(self.hook == number)
            found.append(HookEdit(self.hooks[number], rows, self._adding(model, int(number), rows)))
        return found

    def _adding(self, model: LanguageModel, number: int, rows: Int[np.ndarray, " part"]) -> Edit:
        directions = self.bank[number][_put(model, self.direction[rows].astype(np.int64))]
        vectors = directions * _put(model, self.amount[rows])[:, None]

        def edit(held: Tensor) -> Tensor:
            return (held.float() + vectors.reshape(held.shape)).to(held.dtype)

        return edit


@dataclass(frozen=True, eq=False)
class UnitRows:
    """Row i is destination `dst[i]` of window `window[i]`; unit `index[i]` of site `site[i]` gets `amount[i]` more
    activation there."""

    window: Int[np.ndarray, " row"]
    dst: Int[np.ndarray, " row"]
    site: Int[np.ndarray, " row"]
    index: Int[np.ndarray, " row"]
    amount: Float[np.ndarray, " row"]


def unit_additions(model: LanguageModel, sites: Sequence[UnitSite], rows: UnitRows) -> RowAdditions:
    """What units write, added where their sites are written. Raises BadInput for a unit that a site does not have."""
    direction, bank = np.zeros(len(rows.dst), np.int64), []
    for number, site in enumerate(sites):
        own = rows.site == number
        indices, places = np.unique(rows.index[own], return_inverse=True)
        if len(indices) and not 0 <= indices[0] <= indices[-1] < site.n_units:
            raise BadInput(f"units {indices[0]} to {indices[-1]} of {site.hook}, which has {site.n_units}.")
        direction[own] = places
        bank.append(site.directions([int(i) for i in indices], model.device))
    hooks = tuple(write_hook(site) for site in sites)
    amount = rows.amount.astype(np.float32)
    return RowAdditions(rows.window, rows.dst, rows.site, direction, amount, hooks, tuple(bank))


def write_hook(site: UnitSite) -> str:
    """The hook at which an addition to what the site holds takes effect. `resid_mid` is read at the input of a norm,
    beside the stream; what is added to the attention's output reaches the stream there."""
    return hook_name("attn_out", site.layer) if site.place == "resid_mid" else site.hook


def _put(model: LanguageModel, array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(model.device)
