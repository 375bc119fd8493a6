"""Small autoencoders on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

HAND = {  # two numbers in, three latents
    "W_enc": torch.tensor([[1.0, 0.0, -1.0], [0.0, 2.0, 1.0]]),
    "b_enc": torch.tensor([0.0, -1.0, 0.5]),
    "W_dec": torch.tensor([[3.0, 0.0], [0.0, 4.0], [1.0, 1.0]]),
    "b_dec": torch.tensor([1.0, -1.0]),
}
HOOK = {"hook_name": "blocks.1.hook_resid_post"}


def write_sae(
    folder: Path, settings: Mapping[str, Any], tensors: Mapping[str, Tensor] = HAND, name: str = "sae_weights"
) -> Path:
    """A folder in SAELens's format."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / f"{name}.safetensors")
    (folder / "cfg.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def random_sae(width: int, latents: int, seed: int = 0) -> dict[str, Tensor]:
    """Unit decoder rows, the encoder their transpose."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(latents, width, generator=generator)
    rows = rows / rows.norm(dim=1, keepdim=True)
    return {"W_enc": rows.T, "b_enc": torch.zeros(latents), "W_dec": rows, "b_dec": torch.zeros(width)}
