"""Which neurons or latents a run is about: a specification (`unit_names`) to sites, checked against the model."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from jaxtyping import Float
from torch import Tensor

from autointerp.demo.model import sae_folder
from autointerp.errors import BadInput, ModelError
from autointerp.features.unit_names import Span, named_spans, unit_spec
from autointerp.model import LanguageModel, UnitSite, neuron_site
from autointerp.model.unit_sites import HookPlace, place_width
from autointerp.records import Feature
from autointerp.sae import Sae, load_sae


@dataclass(frozen=True, eq=False)
class UnitSet:
    """The units of a run: whole sites, and which of their units are wanted (`features`, ascending)."""

    spec: str
    sites: tuple[UnitSite, ...]
    features: tuple[Feature, ...]
    facts: dict[str, object] = field(default_factory=dict)  # for `run.json`
    sae: Sae | None = None

    @property
    def n_units(self) -> int:
        """Units of all sites, wanted or not."""
        return sum(site.n_units for site in self.sites)

    def place(self, feature: Feature) -> tuple[int, int]:
        """(number of its site, index there). Raises BadInput for a unit that no site has."""
        number = bisect_left(self.sites, feature.layer, key=lambda site: site.layer)
        site = self.sites[number] if number < len(self.sites) else None
        if site is None or (site.kind, site.layer) != (feature.kind, feature.layer):
            layers = ", ".join(str(one.layer) for one in self.sites)
            raise BadInput(f"{feature} is not among --units {self.spec}, which has {self.sites[0].kind}s of layer "
                           f"{layers}. Name one of those.")  # fmt: skip
        if feature.index >= site.n_units:
            raise BadInput(f"{feature} is out of range: layer {site.layer} has {site.kind}s 0 to {site.n_units - 1}. "
                           "Name one of those.")  # fmt: skip
        return number, feature.index

    def site_of(self, feature: Feature) -> UnitSite:
        """The site where a unit is read. Raises BadInput as `place`."""
        return self.sites[self.place(feature)[0]]


def load_units(spec: str, model: LanguageModel) -> UnitSet:
    """The units that `spec` names. Raises BadInput for a specification, a file or an index that does not fit the
    model, ModelError where the model has no such units."""
    found = unit_spec(spec)
    if found.kind == "neuron":
        return _neurons(spec.strip(), found.spans, model)
    return _latents(spec.strip(), found.source, model)


def select(units: UnitSet, text: str) -> UnitSet:
    """Only the units that `text` names (`L3F17,L3F20-L3F40`, `L3`). Raises BadInput for one that `units` does not name,
    though its place is read."""
    chosen, wanted = _named(named_spans(text, units.sites[0].kind), units), set(units.features)
    other = next((unit for unit in chosen if unit not in wanted), None)
    if other is not None:
        raise BadInput(f"--select names {other}, which is not among --units {units.spec}. Name some of those.")
    return replace(units, features=chosen)


def head_shares(site: UnitSite, index: int, n_heads: int) -> tuple[float, ...]:
    """Each head's share of a latent of joined z: its part of the decoder row, squared norm over the whole.

    Raises BadInput for a unit that is not read from z.
    """
    if site.place != "z" or site.decoder is None:
        raise BadInput(f"{site.unit(index)} is read from {site.place}, where no head has a part of it.")
    row: Float[Tensor, "head d_head"] = site.decoder[index].float().reshape(n_heads, -1)
    parts = row.square().sum(1)
    total = float(parts.sum())
    return tuple(float(part) / total if total > 0 else 0.0 for part in parts)


def _neurons(spec: str, spans: Sequence[Span] | None, model: LanguageModel) -> UnitSet:
    """Sites of all layers that `spans` name, or of all layers with neurons."""
    sites: list[UnitSite] = []
    without: list[int] = []
    wanted = range(model.n_layers) if spans is None else _layers(spans, model)
    for layer in wanted:
        try:
            sites.append(neuron_site(model, layer))
        except ModelError:
            if spans is not None:
                raise
            without.append(layer)
    if not sites:
        raise ModelError(f"{model.name} has no layer with a list of MLP neurons. Choose other units.")
    facts: dict[str, object] = {"kind": "neurons", "per_layer": {str(site.layer): site.n_units for site in sites}}
    if without:
        facts["layers_without_neurons"] = without
    every = UnitSet(spec, tuple(sites), (), facts)
    return replace(every, features=_all(sites) if spans is None else _named(spans, every))


def _layers(spans: Sequence[Span], model: LanguageModel) -> list[int]:
    """The layers that a selection touches, ascending. Raises BadInput for one that the model has not."""
    found: set[int] = set()
    for span in spans:
        if span.last[0] >= model.n_layers:
            raise BadInput(f"{span.text}: layer {span.last[0]} is not there; {model.name} has layers 0 to "
                           f"{model.n_layers - 1}.")  # fmt: skip
        found |= set(range(span.first[0], span.last[0] + 1))
    return sorted(found)


def _all(sites: Sequence[UnitSite]) -> tuple[Feature, ...]:
    return tuple(site.unit(index) for site in sites for index in range(site.n_units))


def _named(spans: Sequence[Span], units: UnitSet) -> tuple[Feature, ...]:
    """The units of a selection: single ones, whole layers, ranges."""
    kind = units.sites[0].kind
    found: set[tuple[int, int]] = set()  # (number of the site, index)
    for span in spans:
        first = Feature(kind=kind, layer=span.first[0], index=span.first[1])
        units.place(first)
        last_layer, last_index = span.last
        if last_index is None:
            last_index = units.site_of(Feature(kind=kind, layer=last_layer, index=0)).n_units - 1
        low, high = units.place(first), units.place(Feature(kind=kind, layer=last_layer, index=last_index))
        for number in range(low[0], high[0] + 1):
            site = units.sites[number]
            start = low[1] if number == low[0] else 0
            stop = high[1] if number == high[0] else site.n_units - 1
            found |= {(number, index) for index in range(start, stop + 1)}
    return tuple(units.sites[number].unit(index) for number, index in sorted(found))


def _latents(spec: str, where: str, model: LanguageModel) -> UnitSet:
    """The latents of an autoencoder, checked against the model's place."""
    sae = load_sae(str(sae_folder()) if where == "demo" else where)
    place, layer = cast(HookPlace, sae.settings.place), sae.settings.layer
    if layer >= model.n_layers:
        raise BadInput(f"{spec} reads {place} of layer {layer}, but {model.name} has layers 0 to {model.n_layers - 1}. "
                       "Give an SAE of this model.")  # fmt: skip
    try:
        width = place_width(model, place, layer)
    except ModelError as error:
        raise BadInput(f"{spec} cannot be read: {error}") from None
    if width != sae.width:
        raise BadInput(f"{spec} reads vectors of {sae.width} numbers, but {place} of layer {layer} of {model.name} has "
                       f"{width}. Give an SAE of this model and this place.")  # fmt: skip
    sae = sae.to(model.device)
    encode = sae.encode_scaled if sae.row_scaled else sae.encode
    site = UnitSite("latent", layer, place, sae.n_latents, width, encode, sae.W_dec)
    return UnitSet(spec, (site,), _all([site]), _facts(sae, model), sae)


def _facts(sae: Sae, model: LanguageModel) -> dict[str, object]:
    settings = sae.settings
    notes = list(sae.notes)
    bos = settings.facts.get("prepend_bos")
    if isinstance(bos, bool) and bos != (model.bos_id is not None):
        notes.append(f"trained {'with' if bos else 'without'} BOS at position 0, but here {model.bos_rule}")
    if sae.row_scaled:
        notes.append(f"inputs are normalised row by row ({settings.normalisation}); activations are times the row's "
                     "own scale, so that one unit adds one decoder row to the model")  # fmt: skip
    return {
        "kind": "sae",
        "file": sae.file_hash,
        "activation": settings.activation,
        "hook": f"{settings.place} of layer {settings.layer}",
        "latents": sae.n_latents,
        "width": sae.width,
        "k": settings.k,
        "b_dec_subtracted_from_input": settings.subtract_b_dec,
        "normalisation": settings.normalisation,
        "trained": dict(settings.facts),
        "notes": notes,
    }
