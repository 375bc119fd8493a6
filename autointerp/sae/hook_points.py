"""The names by which files call a place in a model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from autointerp.errors import BadInput

PLACES = ("resid_pre", "resid_mid", "resid_post", "mlp_out", "attn_out", "z", "mlp_post")
_PARTS = {
    "hook_resid_pre": "resid_pre",
    "hook_resid_mid": "resid_mid",
    "hook_resid_post": "resid_post",
    "hook_mlp_out": "mlp_out",
    "hook_attn_out": "attn_out",
    "attn.hook_z": "z",
    "mlp.hook_post": "mlp_post",
    "hook_in": "resid_pre",  # the names of TransformerBridge
    "hook_out": "resid_post",
}
_LAYER_NAMES = ("hook_layer", "hook_point_layer", "layer")


def read_hook_point(values: Mapping[str, Any], source: str) -> tuple[str, int]:
    """(place, layer) from `hook_name` (`blocks.3.hook_resid_post`), or from `place` and `layer`.

    Raises BadInput where neither is there, the place is not supported, or the two contradict each other.
    """
    names = ("hook_name", "hook_point", "hook_point_in", "hook", "place")
    name = next((values[key] for key in names if values.get(key) is not None), None)
    layer = next((values[key] for key in _LAYER_NAMES if values.get(key) is not None), None)
    if layer is not None and (isinstance(layer, bool) or not isinstance(layer, int) or layer < 0):
        raise BadInput(f"{source}: the layer is {layer!r}, not a whole number from 0 on. Correct it.")
    if not isinstance(name, str):
        raise BadInput(
            f"{source} names no hook point (found {name!r}). "
            'Add "hook_name", such as "blocks.3.hook_resid_post", or "place" and "layer".'
        )
    match = re.fullmatch(r"blocks\.(\d+)\.([\w.]+)", name.strip())
    place = _PARTS.get(match[2]) if match else _PARTS.get(name.strip(), name.strip())
    if place not in PLACES:
        raise BadInput(f"{source}: hook point {name!r} is not supported. Supported are {', '.join(PLACES)} of a layer.")
    named = int(match[1]) if match else None
    if named is None and layer is None:
        raise BadInput(f'{source}: hook point {name!r} has no layer. Add "layer".')
    if named is not None and layer is not None and named != layer:
        raise BadInput(f"{source} contradicts itself: hook point {name!r}, but layer {layer}. Correct it.")
    return place, int(named if named is not None else layer or 0)
