"""Activations on disk: a safetensors file and a JSON beside it that says what they are (probing section 4).

`<name>.safetensors`: `x [item d]`, `y`, `position` and `split` (the fold that tests the item, -1 where none does).
`<name>.json`: all that is needed to know what `x` is and to collect it again. Files are written whole; what does not
fit together is refused on reading. A larger data set is a new file.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int8, Int64
from pydantic import ValidationError
from torch import Tensor

from autointerp.errors import BadInput
from autointerp.model import LanguageModel
from autointerp.model.sites import Site
from autointerp.probing.collection import CollectOptions
from autointerp.probing.items import ProbeSet
from autointerp.probing.validation import Task
from autointerp.records import Record
from autointerp.store.files import write_whole

SCHEMA = 1
R = TypeVar("R", bound=Record)
_LIBRARIES = ("autointerp-agent", "torch", "transformer-lens", "transformers", "numpy", "safetensors")


class ModelFacts(Record):
    """What model the numbers come from; `spec` is what to give to `--model` to load it again."""

    spec: str
    name: str
    revision: str
    dtype: str
    weight_processing: str = "none (HuggingFace numerics, nothing folded or centred)"
    bos: str
    libraries: dict[str, str]


class ItemFacts(Record):
    """One item as it was read."""

    id: str
    text: str
    token: str
    label: str
    groups: dict[str, str]
    document: str | None
    ablate: tuple[str, ...]
    cut: tuple[tuple[int, int], ...]


class ActivationFacts(Record):
    """The JSON beside the tensors."""

    schema_version: int = SCHEMA
    model: ModelFacts
    site: str
    class_names: tuple[str, ...]
    split: str
    seed: int
    ablation: str
    ablated_everywhere: bool
    cut_heads: tuple[str, ...] | None
    items: tuple[ItemFacts, ...]
    created: str
    sha256: str


@dataclass(frozen=True, eq=False)
class Activations:
    """Vectors of one site with labels, positions and folds; `facts` is the JSON."""

    x: Float[Tensor, "item d"]
    y: Int64[Tensor, " item"]
    position: Int64[Tensor, " item"]
    split: Int8[Tensor, " item"]
    facts: ActivationFacts


def model_facts(model: LanguageModel, spec: str) -> ModelFacts:
    """Name, revision, numerics and library versions."""
    return ModelFacts(
        spec=spec,
        name=model.name,
        revision=model.revision,
        dtype=str(model.dtype).removeprefix("torch."),
        bos=model.bos_rule,
        libraries={name: found for name in _LIBRARIES if (found := _version(name))},
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def activation_facts(
    model: ModelFacts, site: Site, probe_set: ProbeSet, task: Task, options: CollectOptions
) -> ActivationFacts:
    """The record of one collection; the hash is filled in on writing."""
    items = tuple(
        ItemFacts(
            id=placed.id,
            text=placed.item.text,
            token=placed.token,
            label=placed.item.label,
            groups=dict(placed.item.groups),
            document=placed.item.groups.get("document"),
            ablate=tuple(str(head) for head in placed.ablate),
            cut=placed.cut,
        )
        for placed in probe_set.items
    )
    return ActivationFacts(
        model=model,
        site=str(site),
        class_names=task.class_names,
        split=task.split,
        seed=task.seed,
        ablation=options.ablation,
        ablated_everywhere=options.everywhere,
        cut_heads=None if options.cut_heads is None else tuple(str(head) for head in options.cut_heads),
        items=items,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        sha256="",
    )


def activations_of(x: Float[Tensor, "item d"], probe_set: ProbeSet, task: Task, facts: ActivationFacts) -> Activations:
    """Tensors and record together."""
    split = np.full(len(task.y), -1, dtype=np.int8)
    for number, fold in enumerate(task.folds):
        split[fold.test] = number
    return Activations(
        x.contiguous(), torch.as_tensor(task.y), torch.as_tensor(probe_set.positions), torch.as_tensor(split), facts
    )


def save_activations(path: Path, found: Activations) -> ActivationFacts:
    """Write `<path>.safetensors` and `<path>.json`; returns the record with the hash. Raises BadInput for NaN."""
    from safetensors.torch import save

    _check_numbers(found.x, str(path))
    tensors = {"x": found.x, "y": found.y, "position": found.position, "split": found.split}
    data = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    facts = found.facts.model_copy(update={"sha256": hashlib.sha256(data).hexdigest()})
    write_whole(_beside(path, "safetensors"), data)
    write_whole(_beside(path, "json"), facts.model_dump_json(indent=1).encode("utf-8", "surrogatepass"))
    return facts


def load_activations(path: Path) -> Activations:
    """Read both files. Raises BadInput for an unknown schema, another hash, rows that do not fit, NaN or infinity."""
    facts = read_record(_beside(path, "json"), ActivationFacts)
    tensors = read_tensors(_beside(path, "safetensors"), facts.sha256)
    missing = {"x", "y", "position", "split"} - set(tensors)
    if missing:
        raise BadInput(f"{path}.safetensors has no {sorted(missing)[0]!r}: it is no activation file.")
    x, y, position, split = (tensors[name] for name in ("x", "y", "position", "split"))
    sizes = {len(tensor) for tensor in (x, y, position, split, facts.items)}
    if len(sizes) != 1 or x.ndim != 2:
        raise BadInput(
            f"{path}: the tensors and the JSON have different numbers of items ({sorted(sizes)}). Collect again."
        )
    _check_numbers(x, str(path))
    if int(split.min()) < -1 or split.dtype != torch.int8:
        raise BadInput(f"{path}: split holds {int(split.min())}; known are -1 (unset) and fold numbers. Collect again.")
    if int(y.min()) < 0 or int(y.max()) >= len(facts.class_names):
        raise BadInput(f"{path}: labels {int(y.min())} to {int(y.max())} for {len(facts.class_names)} classes.")
    return Activations(x, y, position, split, facts)


def read_record(path: Path, kind: type[R]) -> R:
    """A record from its JSON file. Raises BadInput for a missing file, another schema, or what does not parse."""
    try:
        row: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}). Check the path.") from None
    except ValueError as error:
        raise BadInput(f"{path} is no JSON ({error}).") from None
    found = row.get("schema_version") if isinstance(row, dict) else None
    if found != SCHEMA:
        raise BadInput(
            f"{path} has schema {found!r}, and this version reads {SCHEMA}. Make it again, or update autointerp."
        )
    try:
        return kind.model_validate(row)
    except ValidationError as error:
        raise BadInput(f"{path}: {error.errors()[0]['loc']}: {error.errors()[0]['msg']}. Make it again.") from None


def read_tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    """The tensors of a file whose hash is known. Raises BadInput where it is another."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}). Check the path.") from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise BadInput(f"{path} is not the file that its JSON describes (its hash differs). Make both again.")
    try:
        return dict(load(data))
    except SafetensorError as error:
        raise BadInput(f"{path} is no safetensors file ({error}).") from None


def _check_numbers(x: Float[Tensor, "item d"], where: str) -> None:
    if not bool(torch.isfinite(x).all()):
        bad = int((~torch.isfinite(x)).any(1).nonzero()[0])
        raise BadInput(f"{where}: the vector of item {bad} is not finite. Leave the item out, or use --dtype float32.")


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(f"{path.name}.{suffix}")
