"""Task vectors on disk: one safetensors file a model and context mode, its facts as JSON in the file's header.

A file is refused, with both values, where the model, its weights, its processing flags, the prompt's ids or the
spacing rule differ from those it was trained with.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from autointerp.errors import BadInput
from autointerp.lenses.entity_filter import Filter
from autointerp.lenses.entity_frame import Context, Frame
from autointerp.lenses.entity_vectors import Method
from autointerp.model import LanguageModel
from autointerp.store.files import write_whole

FORMAT = 1
KEY = "autointerp_entity_lens"
N_OTHERS = 8
IDENTITY = ("revision", "processing", "d_model", "n_layers", "frame")


@dataclass(frozen=True, eq=False)
class EntityVectors:
    """Everything that the lens needs beside the model.

    `theta [layer d_model]` is each layer's best seed, `seeds [seed layer d_model]` all of them; `mean` is the mean
    source vector of the training items and `others [other layer d_model]` vectors of some of them, for controls.
    """

    layers: tuple[int, ...]
    theta: Float[Tensor, "layer d_model"]
    seeds: Float[Tensor, "seed layer d_model"]
    mean: Float[Tensor, "layer d_model"]
    others: Float[Tensor, "other layer d_model"]
    filters: Filter | None
    facts: dict[str, Any]

    @property
    def context(self) -> Context:
        found: Context = self.facts["context"]
        return found

    @property
    def method(self) -> Method:
        found: Method = self.facts["method"]
        return found

    def place(self, layer: int) -> int:
        """Where a layer stands in the tensors. Raises BadInput where no vector was trained for it."""
        if layer not in self.layers:
            raise BadInput(
                f"there is no vector for layer {layer}; trained are {', '.join(map(str, self.layers))}. "
                f"Choose one of those, or train it: autointerp entity-lens train --layers {layer}."
            )
        return self.layers.index(layer)


def identity(model: LanguageModel, frame: Frame) -> dict[str, Any]:
    """What must agree between training and use. Weights without a known revision are named by their content."""
    revision = model.revision
    if revision in ("", "unknown", "callable"):
        revision = weights_hash(model)
    bridge = model.bridge
    return {
        "revision": revision,
        "processing": {
            "compatibility_mode": bool(getattr(bridge, "compatibility_mode", False)),
            "weights_processed": bool(getattr(bridge, "_weights_processed", False)),
            "fold_ln": bool(getattr(bridge.cfg, "layer_norm_folding", False)),
        },
        "d_model": int(bridge.cfg.d_model),
        "n_layers": model.n_layers,
        "frame": asdict(frame) | {"slots": list(frame.slots)},
    }


def weights_hash(model: LanguageModel) -> str:
    """Content of the parameters, in bfloat16, so that the precision of loading does not matter much."""
    digest = hashlib.sha256()
    for parameter in model.bridge.original_model.parameters():
        digest.update(parameter.detach().to(torch.bfloat16).contiguous().view(torch.int16).cpu().numpy().tobytes())
    return "weights:" + digest.hexdigest()[:16]


def save_vectors(path: Path, vectors: EntityVectors) -> None:
    """Write the file whole; float32."""
    from safetensors.torch import save

    tensors = {"theta": vectors.theta, "seeds": vectors.seeds, "mean": vectors.mean, "others": vectors.others}
    if vectors.filters is not None:
        tensors |= {"filter_weight": vectors.filters.weight, "filter_bias": vectors.filters.bias}
    plain = {name: tensor.detach().float().contiguous().cpu() for name, tensor in tensors.items()}
    facts = {**vectors.facts, "format": FORMAT, "layers": list(vectors.layers)}
    write_whole(path, save(plain, metadata={KEY: json.dumps(facts)}))


def load_vectors(path: Path, model: LanguageModel) -> EntityVectors:
    """Vectors for this model. Raises BadInput for a file that is none, or that belongs to something else."""
    facts, tensors = _read(path)
    check_identity(path, facts, model)
    filters = None
    if "filter_weight" in tensors:
        filters = Filter(tensors["filter_weight"], tensors["filter_bias"])
    names = ("theta", "seeds", "mean", "others")
    theta, seeds, mean, others = (tensors[name] for name in names)
    return EntityVectors(tuple(facts["layers"]), theta, seeds, mean, others, filters, facts)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            facts = json.loads((file.metadata() or {})[KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise BadInput(
            f"{path} holds no entity-lens vectors ({type(error).__name__}: {error}). "
            "Give a file that `autointerp entity-lens train` wrote."
        ) from None
    if facts.get("format") != FORMAT:
        raise BadInput(
            f"{path} has format {facts.get('format')!r}, this version reads {FORMAT}. Train the vectors again."
        )
    return facts, tensors


def check_identity(path: Path, facts: dict[str, Any], model: LanguageModel) -> None:
    """Raises BadInput with both values where the vectors belong to something else."""
    present = identity(model, Frame.of(model))
    wrong = [name for name in IDENTITY if facts.get(name) != present[name]]
    if wrong:
        differences = "; ".join(f"{name} {facts.get(name)!r} there, {present[name]!r} here" for name in wrong)
        raise BadInput(
            f"{path} was trained on {facts.get('model')!r} and does not belong to {model.name!r}: {differences}. "
            "Load the model as it was then, or train vectors for this one."
        )


def default_path(model: LanguageModel, context: Context) -> Path:
    """Where vectors of a model lie when nobody says otherwise."""
    revision = identity(model, Frame.of(model))["revision"].replace(":", "-")
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in Path(model.name).name or "model")
    return Path("runs") / "entity-lens" / f"{name}-{revision}" / f"{context}.safetensors"


def find_vectors(model: LanguageModel, context: Context) -> EntityVectors | None:
    """Vectors trained here before, else those that ship for this model, else None."""
    own = default_path(model, context)
    if own.is_file():
        return load_vectors(own, model)
    present = identity(model, Frame.of(model))
    for path in shipped_files():
        facts, _ = _read(path)
        if facts["context"] == context and all(facts.get(name) == present[name] for name in IDENTITY):
            return load_vectors(path, model)
    return None


def shipped_files() -> list[Path]:
    """Vectors inside the package."""
    from importlib.resources import files

    return sorted((Path(str(files("autointerp.lenses"))) / "vectors").glob("*.safetensors"))
