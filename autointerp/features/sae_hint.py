"""What may be wrong in the JSON of an autoencoder that does not reconstruct: settings that files often leave out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from autointerp.sae import Sae

CLEARLY = 0.5  # explained variance that another setting must reach to be named
_ROWS = 512


def better_settings(sae: Sae, x: Float[Tensor, "row width"]) -> str:
    """The one changed setting under which the vectors are reconstructed, as a sentence; empty where there is none."""
    rows = x[:: max(1, len(x) // _ROWS)]
    spread = float((rows - rows.mean(0)).square().sum())
    rest = {name: float((rows - other.reconstruct(rows)).square().sum()) for name, other in _others(sae, x)}
    name = min(rest, key=lambda one: rest[one])
    value = 1 - rest[name] / spread
    return f"With {name} in its JSON it would explain {value:.1%}." if value >= CLEARLY else ""


def _others(sae: Sae, x: Float[Tensor, "row width"]) -> Iterator[tuple[str, Sae]]:
    settings = sae.settings
    flipped = not settings.subtract_b_dec
    name = f'"apply_b_dec_to_input": {str(flipped).lower()}'
    yield name, replace(sae, settings=replace(settings, subtract_b_dec=flipped))
    scale = sae.width**0.5 / float(x.norm(dim=1).mean())
    name = f'"normalize_activations": "expected_average_only_in", "scaling_factor": {scale:.4g}'
    yield name, sae.scaled(scale)
    if not settings.centred and settings.place != "z":
        name = '"model_from_pretrained_kwargs": {"center_writing_weights": true}'
        yield name, replace(sae, settings=replace(settings, centred=True))
    if settings.normalisation == "none":
        name = '"normalize_activations": "layer_norm"'
        yield name, replace(sae, settings=replace(settings, normalisation="layer_norm"))
