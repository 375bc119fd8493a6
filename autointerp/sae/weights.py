"""The weights of a sparse autoencoder from a safetensors file, checked, with constant factors folded in.

Pickles (.pt, .bin, .ckpt, ...) can run code when they are opened; no file but safetensors is ever opened.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from autointerp.errors import BadInput
from autointerp.sae.autoencoder import Gate, Sae
from autointerp.sae.settings import SaeSettings

_NEEDED = ("W_enc", "b_enc", "W_dec", "b_dec")
_GATED = ("W_enc", "W_dec", "b_dec", "b_gate", "r_mag", "b_mag")
_OTHER = ("threshold", "log_threshold", "finetuning_scaling_factor", "scaling_factor")
_FOREIGN = {"W_skip": "a skip transcoder", "W_gate": "an encoder with weights for its gate"}


def read_sae(path: Path, settings: SaeSettings) -> Sae:
    """The autoencoder in a safetensors file. Raises BadInput for missing, misshapen or non-finite tensors."""
    tensors = _read(path)
    needed = _GATED if settings.activation == "gated" else _NEEDED
    missing = [name for name in needed if name not in tensors]
    if missing:
        raise BadInput(f"{path} has no {', '.join(missing)}; it holds {_some(tensors)}. Give the weights of an SAE "
                       f"with {', '.join(needed)}.")  # fmt: skip
    for name, what in _FOREIGN.items():
        if name in tensors:
            raise BadInput(f"{path} holds {name}, so it is {what}, which is not supported. Give a plain SAE.")
    if settings.activation != "gated" and "b_gate" in tensors:
        raise BadInput(f"{path} holds b_gate, but the activation is {settings.activation}. Name it gated.")
    _check(tensors, settings, path)
    extra = sorted(set(tensors) - set(needed) - set(_OTHER))
    notes = [*settings.notes, *([f"tensors without a part in it: {', '.join(extra[:8])}"] if extra else [])]
    threshold = _threshold(tensors, settings, path, notes)
    return _folded(tensors, settings, threshold, (_hash(path), tuple(notes)))


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    found: dict[str, Tensor] = {}
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            for name in file.keys():
                found[name] = file.get_tensor(name).float()
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(f"{path} cannot be read as safetensors: {reason[:200]}. Get the file again.") from None
    return found


def _some(tensors: dict[str, Tensor]) -> str:
    names = sorted(tensors)
    return ", ".join(names[:8]) + (" ..." if len(names) > 8 else "") if names else "nothing"


def _check(tensors: dict[str, Tensor], settings: SaeSettings, path: Path) -> None:
    """Shapes against each other and against the JSON, and finite numbers."""
    width = settings.d_in or int(tensors["b_dec"].numel())
    bias = tensors["b_gate" if settings.activation == "gated" else "b_enc"]
    latents = settings.d_sae or int(bias.numel())
    expected = {"W_enc": (width, latents), "W_dec": (latents, width), "b_dec": (width,)}
    expected |= {name: (latents,) for name in ("b_enc", "b_gate", "r_mag", "b_mag")}
    for name, shape in expected.items():
        if name in tensors and tuple(tensors[name].shape) != shape:
            seen = tuple(tensors[name].shape)
            hint = "It is transposed. " if seen == shape[::-1] and len(shape) == 2 else ""
            raise BadInput(f"{path}: {name} has shape {list(seen)}, expected {list(shape)} for {width} numbers in and "
                           f"{latents} latents. {hint}Give weights and JSON that belong together.")  # fmt: skip
    for name, tensor in tensors.items():
        bad = int((~torch.isfinite(tensor)).sum())
        if bad and (name in expected or name in _OTHER):
            raise BadInput(f"{path}: {name} holds {bad} numbers that are NaN or infinite. Get the file again.")
    if settings.k is not None and settings.k > latents:
        raise BadInput(f"{path}: k is {settings.k}, but there are {latents} latents. Correct k.")


def _threshold(tensors: dict[str, Tensor], settings: SaeSettings, path: Path, notes: list[str]) -> Tensor | None:
    """One value a latent, not below 0, or None where the activation has none."""
    found = tensors["log_threshold"].exp() if "log_threshold" in tensors else tensors.get("threshold")
    if found is None and settings.threshold is not None:
        found = torch.tensor(settings.threshold)
    latents = tensors["W_dec"].shape[0]
    if found is not None and found.numel() not in (1, latents):
        raise BadInput(f"{path}: threshold has shape {list(found.shape)}, expected one number or one for each of "
                       f"{latents} latents. Get the file again.")  # fmt: skip
    if settings.activation in ("jumprelu", "batchtopk") and found is not None:
        return found.reshape(-1).expand(latents).clamp_min(0.0).contiguous()
    if settings.activation == "jumprelu":
        raise BadInput(f"{path} has no threshold, which activation jumprelu needs; it holds {_some(tensors)}. "
                       "Give the weights with their threshold.")  # fmt: skip
    if settings.activation == "batchtopk":
        notes.append(f"batch-topk without a stored threshold: the {settings.k} largest latents of each row count")
    if settings.activation == "relu" and found is not None and bool((found > 0).any()):
        raise BadInput(f"{path} holds a threshold above 0, but the activation is relu, which has none. "
                       "Name it jumprelu, or remove the threshold.")  # fmt: skip
    if settings.activation == "topk" and found is not None:
        notes.append("the stored threshold is not used: topk takes the k largest of each row")
    return None


def _folded(
    tensors: dict[str, Tensor], settings: SaeSettings, threshold: Tensor | None, told: tuple[str, tuple[str, ...]]
) -> Sae:
    """With every constant factor in the weights: decoder norms, fine-tuning factors, the scale of the inputs."""
    w_enc, w_dec, b_dec = tensors["W_enc"], tensors["W_dec"], tensors["b_dec"]
    b_enc = tensors.get("b_enc", torch.zeros(w_dec.shape[0]))
    if settings.scale_by_decoder_norm:
        norms = w_dec.norm(dim=1).clamp_min(1e-8)
        w_enc, b_enc, w_dec = w_enc * norms, b_enc * norms, w_dec / norms[:, None]
    factor = tensors.get("finetuning_scaling_factor", tensors.get("scaling_factor"))
    if settings.fold_factor and factor is not None and factor.numel() in (1, w_dec.shape[0]):
        w_dec = w_dec * factor.reshape(-1, 1)
    gate = Gate(tensors["b_gate"], tensors["r_mag"], tensors["b_mag"]) if settings.activation == "gated" else None
    if gate is not None:
        b_enc = torch.zeros_like(gate.b_gate)
    found = Sae(settings, w_enc.contiguous(), b_enc, w_dec.contiguous(), b_dec, threshold, gate, *told)
    return found if settings.input_scale == 1.0 else found.scaled(settings.input_scale)


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return "sha256:" + digest.hexdigest()[:16]
