"""A trained probe on disk, and what it says of new text.

The probe that is saved is trained on all items, its penalty chosen over the folds; the accuracy in its record is that
of the held-out folds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from autointerp.errors import BadInput
from autointerp.finder import TokenFinder
from autointerp.model import LanguageModel
from autointerp.model.sites import Row, Site, read_sites
from autointerp.probing.linear import LinearProbe, Scaling, fit_probe
from autointerp.probing.results import ProbeResult
from autointerp.probing.storage import SCHEMA, ModelFacts, read_record, read_tensors
from autointerp.probing.validation import Task, choose_penalty
from autointerp.records import Failure, Record
from autointerp.store.files import write_whole


class ProbeFacts(Record):
    """The JSON beside a probe: enough to train it again. `activations` names the file it was trained on."""

    schema_version: int = SCHEMA
    model: ModelFacts
    site: str
    class_names: tuple[str, ...]
    penalty: float
    gradient: float
    balanced: bool
    n_items: int
    split: str
    seed: int
    dataset: str
    activations: str
    ablated: bool
    result: ProbeResult
    sha256: str


@dataclass(frozen=True, eq=False)
class SavedProbe:
    """A probe and its record."""

    probe: LinearProbe
    facts: ProbeFacts


def final_probe(x: Float[Tensor, "item d"], task: Task) -> LinearProbe | Failure:
    """Trained on every item, the penalty chosen over the same kind of folds."""
    rows = np.arange(len(task.y))
    penalty = choose_penalty(x, task.y, rows, task)
    if isinstance(penalty, Failure):
        return penalty
    return fit_probe(x, task.y, task.n_classes, penalty, task.options)


def save_probe(path: Path, saved: SavedProbe) -> ProbeFacts:
    """Write `<path>.safetensors` and `<path>.json`."""
    from safetensors.torch import save

    probe = saved.probe
    tensors = {
        "weight": probe.weight,
        "bias": probe.bias,
        "mean": probe.scaling.mean,
        "deviation": probe.scaling.deviation,
    }
    data = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    facts = saved.facts.model_copy(update={"sha256": hashlib.sha256(data).hexdigest()})
    write_whole(path.with_name(path.name + ".safetensors"), data)
    write_whole(path.with_name(path.name + ".json"), facts.model_dump_json(indent=1).encode("utf-8", "surrogatepass"))
    return facts


def load_probe(path: Path) -> SavedProbe:
    """Read a probe; `path` with or without its ending. Raises BadInput for what is none."""
    base = path.with_suffix("") if path.suffix in (".json", ".safetensors") else path
    facts = read_record(base.with_name(base.name + ".json"), ProbeFacts)
    tensors = read_tensors(base.with_name(base.name + ".safetensors"), facts.sha256)
    try:
        weight, bias, mean, deviation = (tensors[name] for name in ("weight", "bias", "mean", "deviation"))
    except KeyError as error:
        raise BadInput(f"{base}.safetensors has no {error}: it is no probe.") from None
    if weight.shape != (len(mean), len(facts.class_names)) or not bool(torch.isfinite(weight).all()):
        raise BadInput(
            f"{base}: weights of shape {tuple(weight.shape)} for {len(facts.class_names)} classes. Train again."
        )
    return SavedProbe(LinearProbe(Scaling(mean, deviation), weight, bias, facts.penalty, facts.gradient), facts)


@dataclass(frozen=True, eq=False)
class Applied:
    """What a probe says of one token of a text."""

    text: str
    position: int
    token: str
    probabilities: Float64[np.ndarray, " class"]


def apply_probe(model: LanguageModel, saved: SavedProbe, texts: Sequence[str], at: str | None = None) -> list[Applied]:
    """Probabilities of the classes at `at` (its last place in each text), or at every token that is no special one.

    Raises BadInput for another model than the probe's, and for a text where `at` is missing.
    """
    check_same_model(model, saved.facts.model)
    site = Site.parse(saved.facts.site)
    rows: list[Row] = []
    places: list[tuple[str, int]] = []
    special = set(model.special_ids)
    for text in texts:
        finder = TokenFinder(text, *model.encode(text), bos_id=model.bos_id)
        if len(finder) > model.n_ctx:
            raise BadInput(f"{text[:40]!r} has {len(finder)} tokens, more than the model's context of {model.n_ctx}.")
        ids = np.asarray(finder.ids, dtype=np.int32)
        every = [n for n, token in enumerate(ids.tolist()) if token not in special]
        for position in every if at is None else [finder.find_last(at).index]:
            rows.append(Row(ids, position))
            places.append((text, position))
    if not rows:
        raise BadInput("the texts have no tokens to read. Give a text.")
    log_probs = saved.probe.log_probs(read_sites(model, rows, [site])[site])
    return [
        Applied(text, position, model.strings[int(row.ids[position])], np.asarray(probs))
        for row, (text, position), probs in zip(rows, places, log_probs.exp().numpy(), strict=True)
    ]


def check_same_model(model: LanguageModel, facts: ModelFacts) -> None:
    """Raise BadInput where the model is not the one that the probe was trained on."""
    known = bool(model.revision and facts.revision and facts.revision not in ("callable", "unknown"))
    if known and model.revision != facts.revision:
        raise BadInput(
            f"the probe was trained on {facts.spec} ({facts.revision}), and this model is {model.name} "
            f"({model.revision}). Give the same --model, or train again."
        )
