"""Models from weights that we set: no checkpoint, no training, a transformer_lens native model around them.

Attention, and MLPs with ReLU where they are given; no norm in the blocks, a root-mean-square norm before the
unembedding, learned positions, no bias but the neurons' own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from autointerp.model.instrument import InstrumentReport
from autointerp.model.language_model import LanguageModel
from autointerp.model.loading import choose_device, choose_dtype, quiet, wrap_bridge


@dataclass(frozen=True)
class AttentionWeights:
    """One layer: `q k v [head d_model d_head]`, `o [head d_head d_model]`; scores are divided by sqrt(d_head)."""

    q: Float[np.ndarray, "head d_model d_head"]
    k: Float[np.ndarray, "head d_model d_head"]
    v: Float[np.ndarray, "head d_model d_head"]
    o: Float[np.ndarray, "head d_head d_model"]


@dataclass(frozen=True)
class MlpWeights:
    """One layer's neurons: `relu(x @ read + bias) @ write`."""

    read: Float[np.ndarray, "d_model neuron"]
    bias: Float[np.ndarray, " neuron"]
    write: Float[np.ndarray, "neuron d_model"]


@dataclass(frozen=True)
class NativeWeights:
    """All weights of a model; `mlps` has one for each layer, or none at all."""

    embedding: Float[np.ndarray, "token d_model"]
    positions: Float[np.ndarray, "pos d_model"]
    layers: Sequence[AttentionWeights]
    unembedding: Float[np.ndarray, "token d_model"]
    mlps: Sequence[MlpWeights] = ()

    def arrays(self) -> dict[str, np.ndarray]:
        """Parameters by their name in the native model, in float32."""
        found = {
            "tok_embed.weight": self.embedding, "pos.weight": self.positions, "head.weight": self.unembedding,
            "ln_out.weight": np.ones(self.embedding.shape[1]),
        }  # fmt: skip
        for number, layer in enumerate(self.layers):
            place = f"layers.{number}.attn"
            for name, weight in (("q", layer.q), ("k", layer.k), ("v", layer.v)):
                found[f"{place}.{name}.weight"] = weight.transpose(0, 2, 1).reshape(-1, weight.shape[1])
                found[f"{place}.{name}.bias"] = np.zeros(weight.shape[0] * weight.shape[2])
            found[f"{place}.o.weight"] = layer.o.reshape(-1, layer.o.shape[2]).T
            found[f"{place}.o.bias"] = np.zeros(layer.o.shape[2])
        for number, mlp in enumerate(self.mlps):
            place = f"layers.{number}.mlp"
            found |= {f"{place}.fc_in.weight": mlp.read.T, f"{place}.fc_in.bias": mlp.bias}
            found |= {f"{place}.fc_out.weight": mlp.write.T, f"{place}.fc_out.bias": np.zeros(mlp.write.shape[1])}
        return {name: np.ascontiguousarray(values, dtype=np.float32) for name, values in found.items()}


def load_native(
    weights: NativeWeights, tokenizer: Any, name: str, device: str = "auto", dtype: str = "auto"
) -> tuple[LanguageModel, InstrumentReport]:
    """Boot the weights and prove the instrument. Raises BadInput for device or dtype, ModelError as `load_model`."""
    arrays = weights.arrays()
    place = choose_device(device)
    kind = choose_dtype("float32" if dtype == "auto" else dtype, place)  # set by hand: no reason for half precision
    with quiet():
        bridge = _boot(weights, tokenizer, place, kind)
    parameters = {n.replace("._original_component", ""): p for n, p in bridge.original_model.named_parameters()}
    with torch.no_grad():
        for parameter_name, parameter in parameters.items():
            parameter.copy_(torch.from_numpy(arrays[parameter_name]))
            parameter.requires_grad_(False)  # noqa: FBT003
    digest = hashlib.sha256(b"".join(values.tobytes() for _, values in sorted(arrays.items())))
    return wrap_bridge(bridge, name, f"sha256:{digest.hexdigest()[:16]}")


def _boot(weights: NativeWeights, tokenizer: Any, device: str, dtype: torch.dtype) -> Any:
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge

    n_heads, d_model, d_head = weights.layers[0].q.shape
    config = TransformerBridgeConfig(
        n_layers=len(weights.layers),
        n_heads=n_heads,
        d_model=d_model,
        d_head=d_head,
        n_ctx=len(weights.positions),
        d_vocab=len(weights.embedding),
        d_mlp=weights.mlps[0].write.shape[0] if weights.mlps else None,
        act_fn="relu" if weights.mlps else "gelu",
        attn_only=not weights.mlps,
        normalization_type=None,
        final_rms=True,
        default_prepend_bos=True,
        init_weights=False,
    )
    return TransformerBridge.boot_native(config, tokenizer=tokenizer, device=device, dtype=dtype)
