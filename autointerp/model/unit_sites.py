"""Neurons and latents as the model computes them: where they are read, and the directions that they write.

A `UnitSite` is one hook of the bridge with the units that are read there: the neurons of a layer are the hook's own
numbers, latents are an encoder's reading of it. All sites are read in one forward that stops after the last of them.
A unit acts on its hook along its direction: one number of the hook for a neuron, the decoder's row for a latent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from autointerp.errors import ModelError
from autointerp.model.language_model import HookFunction, LanguageModel
from autointerp.model.sites import hook_name, run_to
from autointerp.records import Feature

HookPlace = Literal["mlp_post", "resid_pre", "resid_mid", "resid_post", "mlp_out", "attn_out", "z"]


def place_hook(place: HookPlace, layer: int) -> str:
    """The bridge's name of a place."""
    return f"blocks.{layer}.mlp.hook_post" if place == "mlp_post" else hook_name(place, layer)


@dataclass(frozen=True, eq=False)
class UnitSite:
    """One place of the model and the units that are read there; `encode` and `decoder` are None for neurons."""

    kind: Literal["neuron", "latent"]
    layer: int
    place: HookPlace
    n_units: int
    width: int  # numbers of the hook at a position (heads and their dimensions joined for z)
    encode: Callable[[Float[Tensor, "row width"]], Float[Tensor, "row unit"]] | None = None
    decoder: Float[Tensor, "unit width"] | None = None

    @property
    def hook(self) -> str:
        """The bridge's name of the place."""
        return place_hook(self.place, self.layer)

    def unit(self, index: int) -> Feature:
        return Feature(kind=self.kind, layer=self.layer, index=index)

    def read(self, tensor: Tensor) -> Float[Tensor, "batch pos unit"]:
        """Activations from what the hook holds, float32."""
        flat = tensor.detach().reshape(tensor.shape[0], tensor.shape[1], -1).float()
        if self.encode is None:
            return flat
        found = self.encode(flat.reshape(-1, self.width))
        return found.reshape(*flat.shape[:2], -1)

    def directions(self, indices: Sequence[int], device: torch.device) -> Float[Tensor, "unit width"]:
        """What one unit of activation adds at the hook."""
        wanted = torch.tensor(list(indices), dtype=torch.long, device=device)
        if self.decoder is None:
            return torch.nn.functional.one_hot(wanted, self.width).float()
        return self.decoder.to(device)[wanted].float()

    def into_stream(self, model: LanguageModel, indices: Sequence[int]) -> Float[Tensor, "unit d_model"]:
        """What one unit of activation adds to the residual stream, straight. Raises ModelError where a norm stands
        between the place and the stream."""
        found = self.directions(indices, model.device)
        if self.place.startswith("resid"):
            return found
        if not model.direct_writes:
            raise ModelError(f"{model.name} has a norm between {self.place} and the residual stream, so what a unit "
                             "writes there is not what reaches the stream.")  # fmt: skip
        if self.place == "mlp_post":
            return found @ w_out(model, self.layer)
        if self.place == "z":
            return found @ model.W_O(self.layer).reshape(-1, model.W_U.shape[0])
        return found


def neuron_site(model: LanguageModel, layer: int) -> UnitSite:
    """The MLP neurons of a layer. Raises ModelError where the layer has no MLP that reports them."""
    width = int(w_out(model, layer).shape[0])
    return UnitSite("neuron", layer, "mlp_post", width, width)


def w_out(model: LanguageModel, layer: int) -> Float[Tensor, "neuron d_model"]:
    """The output weights of a layer's neurons, float32. Raises ModelError where the layer has none."""
    weight = getattr(getattr(model.bridge.blocks[layer], "mlp", None), "W_out", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        raise ModelError(f"layer {layer} of {model.name} has no MLP with one list of neurons (none, or experts). "
                         "Choose other units.")  # fmt: skip
    return weight.detach().float()


def place_width(model: LanguageModel, place: HookPlace, layer: int) -> int:
    """Numbers at a position of a place. Raises ModelError where the model has no such place."""
    found: list[int] = []

    def keep(tensor: Tensor, hook: Any) -> None:
        found.append(int(tensor.shape[2:].numel()))

    ids = torch.tensor([[model.special_ids[0] if model.special_ids else 0, 0]], device=model.device)
    try:
        with model.hooks([(place_hook(place, layer), keep)]):
            run_to(model, ids, layer + 1)
    except (KeyError, ValueError):
        found = []
    if not found:
        raise ModelError(f"{model.name} has no {place} at layer {layer}. Choose another place.")
    return found[0]


def read_units(
    model: LanguageModel,
    ids: Int[Tensor, "batch pos"],
    sites: Sequence[UnitSite],
    read: Callable[[int, Float[Tensor, "batch pos unit"]], None],
) -> None:
    """One forward; `read(number of the site, activations)` runs inside it, site by site as the model reaches them, so
    that no two sites' activations need be held at once. Raises ModelError where a site stays silent."""
    seen: set[int] = set()

    def hook_of(number: int, site: UnitSite) -> HookFunction:
        def hook(tensor: Tensor, hook: Any) -> None:
            seen.add(number)
            read(number, site.read(tensor))

        return hook

    with model.hooks([(site.hook, hook_of(number, site)) for number, site in enumerate(sites)]):
        run_to(model, ids, max((site.layer for site in sites), default=-1) + 1)
    missing = [str(sites[n].hook) for n in range(len(sites)) if n not in seen]
    if missing:
        raise ModelError(f"{model.name}: nothing arrived from {missing[0]}, so its units cannot be read. "
                         "Choose other units.")  # fmt: skip
