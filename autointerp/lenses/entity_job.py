"""From data to trained vectors, and the vectors of a model wherever they lie: what the commands and notebooks call."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

from torch import Tensor

from autointerp.errors import BadInput
from autointerp.lenses.entity_checkpoint import N_OTHERS, EntityVectors, identity
from autointerp.lenses.entity_items import Limits, MentionItem, Parts, data_hash, keep_items, split_items
from autointerp.lenses.entity_run import PromptRunner
from autointerp.lenses.entity_steps import match_items
from autointerp.lenses.entity_train import Trainer, TrainPlan
from autointerp.lenses.entity_vectors import (
    EMBEDDING,
    Progress,
    ReadPlan,
    Sources,
    check_layers,
    read_sources,
    silent,
)
from autointerp.model import LanguageModel

DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class DataPlan:
    """Limits and the seed of the split."""

    limits: Limits = DEFAULT_LIMITS
    split_seed: int = 0
    max_items: int = 0  # training items, 0 for all


def parts_of(items: Sequence[MentionItem], plan: DataPlan) -> tuple[Parts, dict[str, int]]:
    """The parts, and what the limits dropped. Raises BadInput where nothing is left."""
    kept, dropped = keep_items(items, plan.limits)
    if not kept:
        raise BadInput(f"the limits drop all {len(items)} mentions ({dropped}). Give shorter texts or wider limits.")
    parts = split_items(kept, plan.split_seed)
    if plan.max_items:
        parts = replace(parts, train=parts.train[: plan.max_items])
    return parts, dropped


def plan_layers(model: LanguageModel, layers: Sequence[int] | None) -> tuple[int, ...]:
    """The layers to train: those asked for, else the embedding and every block."""
    return check_layers(model, range(EMBEDDING, model.n_layers) if layers is None else layers)


def train_vectors(
    runner: PromptRunner, items: Sequence[MentionItem], plan: TrainPlan, data: DataPlan, progress: Progress = silent
) -> tuple[EntityVectors, Parts]:
    """Train on the items' training part; returns the vectors and the parts, for evaluation."""
    started = time.monotonic()
    model = runner.model
    parts, dropped = parts_of(items, data)
    read = ReadPlan(plan.layers, plan.method, plan.context)
    train = read_sources(model, runner.frame, parts.train, read, progress)
    dev = read_sources(model, runner.frame, parts.dev[: plan.dev_items], read, progress)
    trainer = Trainer(runner, train, dev, plan, progress)
    trained = trainer.run()
    filters, dev_match = trained.filters, {"theta": trained.dev_em.max(0).values.tolist()}
    if filters is not None:
        every = list(range(len(plan.layers)))
        dev_match["filter"] = match_items(runner, dev, trained.best(), every, filters).tolist()
    facts = identity(model, runner.frame) | {
        "model": Path(model.name).name,
        "layers": list(plan.layers),
        "dtype": str(model.dtype).removeprefix("torch."),
        "context": plan.context,
        "method": plan.method,
        "plan": asdict(plan),
        "data": {
            "hash": data_hash([*parts.train, *parts.dev]), "limits": asdict(data.limits), "dropped": dropped,
            "split_seed": data.split_seed, "n_train": len(train), "n_dev": len(dev), "max_items": data.max_items,
            "n_entities": len({item.entity_id for item in train.items}), "merged": train.merged,
        },
        "rates": list(trained.rates),
        "dev_em": trained.dev_em.tolist(),
        "dev_match": dev_match,
        "curve": [list(point) for point in trained.curve],
        "use_filter": filters is not None and sum(dev_match["filter"]) > sum(dev_match["theta"]),
        "seconds": time.monotonic() - started,
        "versions": {name: version(name) for name in ("torch", "transformers", "transformer-lens")},
    }  # fmt: skip
    vectors = EntityVectors(
        plan.layers, trained.best(), trained.theta, train.h.float().mean(0), _others(train), filters, facts
    )
    return vectors, parts


def _others(train: Sources) -> Tensor:
    """Vectors of a few training items of different entities, for the `shuffled` control."""
    first = {item.entity_id: number for number, item in reversed(list(enumerate(train.items)))}
    rows = sorted(first.values())
    step = max(1, len(rows) // N_OTHERS)
    return train.h[rows[::step][:N_OTHERS]].float()
