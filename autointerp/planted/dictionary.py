"""The dictionary planted in the stream of the feature model, as a sparse autoencoder with exact weights.

After the last layer the stream is a sum of known directions: the neurons' own, and what carries the token here, the one
before, the one two before, and the position. Each is a latent; its encoder is the linear reading that gives its amount
back whatever else is there, its decoder the direction. A jump keeps rounding from making every latent active.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float

from autointerp.planted.counts import counts
from autointerp.planted.features import CONSTANT, FEATURE_SPEC, PlantedFeatures
from autointerp.planted.heads import Truth
from autointerp.planted.neuron_draws import where
from autointerp.planted.neurons import FEATURE_LAYERS
from autointerp.planted.space import N_CTX
from autointerp.records import Feature

DICTIONARY_LAYER = FEATURE_LAYERS - 1
JUMP, CARRIER_JUMP = 0.02, 0.5
CARRIERS = 4  # token latents that nothing reads, described beside those of the neurons
CARRIER = "unread_token"


@dataclass(frozen=True, eq=False)
class Latents:
    """Rows in the order of the file: what reads each latent, what it writes, its jump, and what is true of it."""

    encoder: Float[np.ndarray, "latent d_model"]
    decoder: Float[np.ndarray, "latent d_model"]
    jumps: Float[np.ndarray, " latent"]
    truths: tuple[Truth | None, ...]  # None: not described by the benchmark


@dataclass(frozen=True, eq=False)
class PlantedDictionary:
    """The dictionary of a seed."""

    planted: PlantedFeatures

    @classmethod
    def of(cls, seed: int) -> PlantedDictionary:
        return cls(PlantedFeatures.of(seed))

    @cached_property
    def latents(self) -> Latents:
        """All latents, shuffled by the seed."""
        p, space = self.planted, self.planted.space
        own = [n for n, neuron in enumerate(p.neurons) if neuron.output != "nothing"]
        parts = [space.part(name) for name in ("token", "before", "before2", "position", "rest")]
        carried = np.concatenate(parts)
        encoder = np.concatenate([p.readers[own], carried])
        decoder = np.concatenate([p.directions[own], carried])
        jumps = np.repeat([JUMP, CARRIER_JUMP], [len(own), len(carried)])
        truths = [p.neurons[n].truth for n in own] + self._carriers(len(carried))
        order = np.random.default_rng([p.seed, 3]).permutation(len(jumps))
        return Latents(encoder[order], decoder[order], jumps[order], tuple(truths[int(k)] for k in order))

    def _carriers(self, n: int) -> list[Truth | None]:
        """Of the latents that carry tokens the commonest few that are no more common than a planted token can be."""
        coded = counts().coded
        shares = [counts().row_share([i]) for i in coded]
        common = sorted((k for k, share in enumerate(shares) if share <= 0.015), key=lambda k: -shares[k])[:CARRIERS]
        found: list[Truth | None] = [None] * n
        for k in common:
            found[k] = Truth(CARRIER, ("token",), where([coded[k]]), matters=False)
        return found

    def key(self) -> dict[Feature, Truth]:
        """What is true of the latents that the benchmark describes."""
        return {
            Feature(kind="latent", layer=DICTIONARY_LAYER, index=index): truth
            for index, truth in enumerate(self.latents.truths)
            if truth is not None
        }

    def write(self, folder: Path) -> None:
        """`cfg.json` and `sae_weights.safetensors`, as SAELens writes them."""
        from safetensors.numpy import save_file

        found, space = self.latents, self.planted.space
        tensors = {
            "W_enc": found.encoder.T,
            "b_enc": np.zeros(len(found.jumps)),
            "W_dec": found.decoder,
            "b_dec": CONSTANT * space.part("constant")[0],
            "threshold": found.jumps,
        }
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {name: np.ascontiguousarray(values, dtype=np.float32) for name, values in tensors.items()},
            folder / "sae_weights.safetensors",
        )
        facts = {
            "architecture": "jumprelu", "d_in": space.d_model, "d_sae": len(found.jumps), "dtype": "float32",
            "hook_name": f"blocks.{DICTIONARY_LAYER}.hook_resid_post", "hook_layer": DICTIONARY_LAYER,
            "hook_head_index": None, "activation_fn_str": "relu", "activation_fn_kwargs": {},
            "apply_b_dec_to_input": False, "normalize_activations": "none", "finetuning_scaling_factor": False,
            "model_name": f"{FEATURE_SPEC}:{self.planted.seed}", "context_size": N_CTX, "prepend_bos": True,
        }  # fmt: skip
        (folder / "cfg.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
