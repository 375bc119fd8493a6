"""What a JSON beside the weights says of a sparse autoencoder, read strictly.

Two forms are understood: the `cfg.json` of SAELens 3 to 6 (version 6 keeps the hook under `metadata`), and a plain JSON
that names the hook point and the activation. Whatever would change the arithmetic and is not known is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from autointerp.errors import BadInput
from autointerp.sae.hook_points import read_hook_point

Activation = Literal["relu", "topk", "batchtopk", "jumprelu", "gated"]
Normalisation = Literal["none", "layer_norm", "constant_norm_rescale"]

_ACTIVATIONS: dict[str, Activation] = {
    "standard": "relu",
    "relu": "relu",
    "topk": "topk",
    "batchtopk": "batchtopk",
    "matryoshkabatchtopk": "batchtopk",
    "jumprelu": "jumprelu",
    "gated": "gated",
}
_NORMALISATIONS = ("none", "layer_norm", "constant_norm_rescale", "expected_average_only_in")
_FIRST_VERSIONS = ("l1_coefficient", "expansion_factor", "hook_point_layer")  # fields of SAELens before 3
_NAMES = "relu (or standard), topk, batch-topk, jumprelu, gated"


@dataclass(frozen=True)
class SaeSettings:
    """Everything beside the weights that determines what the autoencoder computes, and where it reads."""

    place: str  # a name of `hook_points.PLACES`
    layer: int
    activation: Activation
    d_in: int | None = None  # None where the JSON leaves it to the weights
    d_sae: int | None = None
    k: int | None = None
    threshold: float | None = None  # one for all latents; the file's own goes before it
    subtract_b_dec: bool = True
    normalisation: Normalisation = "none"
    input_scale: float = 1.0  # inputs are multiplied by it before encoding, outputs divided
    scale_by_decoder_norm: bool = False  # pre-activations are compared as if decoder rows had norm 1
    centred: bool = False  # trained on a stream with its mean over d_model taken out
    fold_factor: bool | None = None  # `finetuning_scaling_factor`: whether the file's factor counts
    facts: Mapping[str, object] = field(default_factory=dict)  # told in `run.json`, with no effect
    notes: tuple[str, ...] = ()


def read_settings(path: Path) -> SaeSettings:
    """The settings in a JSON file. Raises BadInput for what cannot be read, is missing, or is not supported."""
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))  # some editors write a mark first
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise BadInput(f"{path} cannot be read as JSON: {reason}. Get the file again, or write it anew.") from None
    if not isinstance(found, dict):
        raise BadInput(f"{path} holds a {type(found).__name__}, not an object of settings. Get the file again.")
    return settings_from(found, str(path))


def settings_from(raw: Mapping[str, Any], source: str) -> SaeSettings:
    """As `read_settings`, from the object; `source` names it in errors."""
    metadata = raw.get("metadata")
    fields = _Fields({**(metadata if isinstance(metadata, dict) else {}), **_without_nulls(raw)}, source)
    _refuse_transcoders(fields)
    place, layer = read_hook_point(fields.values, source)
    if fields.get("hook_head_index", "hook_point_head_index") is not None:
        raise BadInput(f"{source}: hook_head_index is {fields.get('hook_head_index', 'hook_point_head_index')!r}, an "
                       "SAE of one head. Only SAEs of all heads' z joined are supported.")  # fmt: skip
    notes: list[str] = []
    activation, k = _activation(fields, notes)
    normalisation, scale = _normalisation(fields, notes)
    kwargs = fields.get("model_from_pretrained_kwargs")
    return SaeSettings(
        place=place,
        layer=layer,
        activation=activation,
        d_in=fields.count("d_in"),
        d_sae=fields.count("d_sae"),
        k=k,
        threshold=fields.number("threshold", "jump_relu_threshold"),
        subtract_b_dec=fields.flag(default=True, names=("apply_b_dec_to_input",)),
        normalisation=normalisation,
        input_scale=scale,
        scale_by_decoder_norm=fields.flag(default=False, names=("rescale_acts_by_decoder_norm",)),
        centred=isinstance(kwargs, dict) and kwargs.get("center_writing_weights") is True and place != "z",
        fold_factor=fields.get("finetuning_scaling_factor") is True,
        facts={name: fields.values[name] for name in _TOLD if fields.get(name) is not None},
        notes=tuple(notes),
    )


_TOLD = ("model_name", "prepend_bos", "context_size", "exclude_special_tokens", "sae_lens_version",
         "sae_lens_training_version", "dtype")  # fmt: skip


def _without_nulls(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {str(name): value for name, value in raw.items() if value is not None}


@dataclass(frozen=True)
class _Fields:
    """Typed access by any of several names."""

    values: Mapping[str, Any]
    source: str

    def get(self, *names: str) -> Any:
        return next((self.values[name] for name in names if self.values.get(name) is not None), None)

    def number(self, *names: str) -> float | None:
        value = self.get(*names)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise BadInput(f"{self.source}: {names[0]} is {value!r}, not a number. Correct it.")
        return float(value)

    def count(self, *names: str) -> int | None:
        value = self.number(*names)
        if value is None:
            return None
        if value < 1 or value != int(value):
            raise BadInput(f"{self.source}: {names[0]} is {value:g}, not a whole number of at least 1. Correct it.")
        return int(value)

    def flag(self, *, default: bool, names: tuple[str, ...]) -> bool:
        value = self.get(*names)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise BadInput(f"{self.source}: {names[0]} is {value!r}, neither true nor false. Correct it.")
        return value


def _refuse_transcoders(fields: _Fields) -> None:
    hook_in = fields.get("hook_name", "hook_point", "hook_point_in")
    hook_out = fields.get("hook_name_out", "hook_point_out")
    d_in, d_out = fields.get("d_in"), fields.get("d_out")
    if (hook_out not in (None, hook_in)) or (d_out not in (None, d_in)):
        raise BadInput(
            f"{fields.source}: it reads {hook_in!r} and writes {hook_out or f'd_out {d_out}'!r}: a transcoder, whose "
            "latents are not parts of what it reads. Give an SAE that reconstructs its own input."
        )


def _activation(fields: _Fields, notes: list[str]) -> tuple[Activation, int | None]:
    """The activation and k. `architecture` names it but for SAELens before 6, where a standard one may be topk."""
    kwargs = fields.get("activation_fn_kwargs")
    inner_k = kwargs.get("k") if isinstance(kwargs, dict) else None
    architecture = fields.get("architecture")
    function = fields.get("activation", "activation_fn", "activation_fn_str", "act_fn")
    if architecture is None and function is None and any(fields.get(name) is not None for name in _FIRST_VERSIONS):
        notes.append("the JSON names no activation; taken as relu, the only one of SAELens's first versions")
        return "relu", None
    if architecture is None and function is None:
        raise BadInput(f'{fields.source} names no activation. Add "activation": one of {_NAMES}.')
    found = _named(architecture, fields.source) if architecture is not None else None
    other = _named(function, fields.source) if function is not None else None
    if found not in (None, "relu", other) and other not in (None, "relu"):
        raise BadInput(f"{fields.source} contradicts itself: architecture {architecture!r}, activation {function!r}. "
                       "Correct it.")  # fmt: skip
    chosen = cast(Activation, other if found in (None, "relu") and other is not None else found)
    if chosen not in ("topk", "batchtopk"):
        return chosen, None
    given = inner_k if inner_k is not None else fields.get("k", "top_k")
    if given is None:
        raise BadInput(f'{fields.source}: activation {chosen} without k. Add "k", the latents active at a position.')
    k = _Fields({"k": given}, fields.source).number("k") or 0.0
    if round(k) < 1 or (chosen == "topk" and k != round(k)):
        raise BadInput(f"{fields.source}: k is {given!r}, not a whole number of at least 1. Correct it.")
    return chosen, round(k)


def _named(name: object, source: str) -> Activation:
    key = str(name).lower().replace("-", "").replace("_", "").replace(" ", "")
    if not isinstance(name, str) or key not in _ACTIVATIONS:
        raise BadInput(f"{source}: architecture or activation {name!r} is not supported. Known are {_NAMES}.")
    return _ACTIVATIONS[key]


def _normalisation(fields: _Fields, notes: list[str]) -> tuple[Normalisation, float]:
    value = fields.get("normalize_activations")
    if isinstance(value, bool):  # SAELens before 3
        value = "expected_average_only_in" if value else "none"
    value = "none" if value is None else value
    if value not in _NORMALISATIONS:
        raise BadInput(f"{fields.source}: normalize_activations is {value!r}; known are {', '.join(_NORMALISATIONS)}.")
    if value != "expected_average_only_in":
        return cast(Normalisation, value), 1.0
    scale = fields.number("norm_scaling_factor", "scaling_factor")
    if scale is None:
        notes.append("normalize_activations is expected_average_only_in with no scaling_factor: taken as folded into "
                     "the weights already")  # fmt: skip
        return "none", 1.0
    if scale <= 0:
        raise BadInput(f"{fields.source}: scaling_factor is {scale:g}, not above 0. Correct it.")
    return "none", scale
