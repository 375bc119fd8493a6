"""What patching, path patching and screening share: two unpatched runs of a batch, numbers by cell and prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int

from autointerp.circuits.cells import Cell, CellTable, cell_table
from autointerp.circuits.measures import Reader, Values, effects
from autointerp.circuits.prompts import ContrastSet
from autointerp.model import LanguageModel
from autointerp.model.nodes import Grids, NodeKind, NodeReader
from autointerp.model.patched_runs import BaseRun

Direction = Literal["denoise", "noise"]
DIRECTIONS = ("denoise", "noise")
Progress = Callable[[str, int, int], None]
BATCH_CELLS = 4096  # tokens that run together


def silent(stage: str, done: int, of: int) -> None:
    """No progress."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Some prompts of a set with the base run, which is patched, and the ids that supply the patches."""

    rows: Int[np.ndarray, " part"]
    prompts: ContrastSet
    base: BaseRun
    source: Grids  # of the source run
    own: Grids  # of the base run
    reader: Reader
    unpatched: tuple[Values, Values]  # clean, corrupted

    @classmethod
    def of(cls, model: LanguageModel, prompts: ContrastSet, rows: Int[np.ndarray, " part"], job: Job) -> Batch:
        """`prompts`: those of the rows alone. Both runs are made once, and read as the job says."""
        ends = torch.from_numpy(prompts.ends).to(model.device)
        clean, corrupted = model.to_ids(prompts.clean), model.to_ids(prompts.corrupted)
        from_ids, source_ids = (corrupted, clean) if job.direction == "denoise" else (clean, corrupted)
        own, source = NodeReader(model, job.nodes if job.read_base else ()), NodeReader(model, job.nodes)
        with own.watching(), job.around_base:
            base = BaseRun(model, from_ids, ends)
        each = torch.arange(len(ends), device=ends.device)
        with source.watching():
            other = model.final_states(source_ids)[1][each, ends]
        hidden = (other, base.hidden) if job.direction == "denoise" else (base.hidden, other)
        reader = Reader.of(model, prompts, hidden[0]) if "kl" in job.metrics else Reader(model, prompts)
        first, second = (reader.values(h[None], job.metrics) for h in hidden)
        return cls(rows, prompts, base, source.grids, own.grids, reader, (_flat(first), _flat(second)))


def _flat(values: Values) -> Values:
    return {name: found[0] for name, found in values.items()}


@dataclass(frozen=True)
class Job:
    """What is read of every patched run."""

    direction: Direction
    metrics: tuple[str, ...]
    ratio: str = "of_means"
    seed: int = 0
    nodes: tuple[tuple[NodeKind, int], ...] = ()  # read of the source run, and of the base run where `read_base`
    read_base: bool = False
    around_base: AbstractContextManager[None] = field(default_factory=nullcontext)


@dataclass(eq=False)
class Gathered:
    """Raw measures of all cells and prompts, filled batch by batch; NaN where nothing was patched."""

    cells: tuple[Cell, ...]
    n_prompts: int
    job: Job
    labels: tuple[str, ...] = ()
    patched: Values = field(default_factory=dict)
    clean: Values = field(default_factory=dict)
    corrupted: Values = field(default_factory=dict)

    def add_unpatched(self, batch: Batch) -> None:
        for into, found in ((self.clean, batch.unpatched[0]), (self.corrupted, batch.unpatched[1])):
            for name, values in found.items():
                into.setdefault(name, np.full(self.n_prompts, np.nan))[batch.rows] = values

    def add(self, batch: Batch, numbers: Sequence[int], hidden: Float[torch.Tensor, "variant part d_model"]) -> None:
        """`hidden`: the final norm's output at the ends, one variant for each of the named cells."""
        shape = (len(self.cells), self.n_prompts)
        for name, values in batch.reader.values(hidden, self.job.metrics).items():
            into = self.patched.setdefault(name, np.full(shape, np.nan))
            into[np.ix_(np.asarray(numbers), batch.rows)] = values

    def tables(self, settings: Mapping[str, str | int | float], notes: Sequence[str] = ()) -> dict[str, CellTable]:
        """One table a metric."""
        found: dict[str, CellTable] = {}
        for metric in self.job.metrics:
            raw = "logit_diff" if metric == "score" else metric
            effect = effects(metric, self.patched, self.clean, self.corrupted, self.job.direction)
            told: dict[str, str | int | float] = {
                **settings,
                "direction": self.job.direction,
                "metric": metric,
                "ratio": self.job.ratio if metric == "score" else "",
                "clean": float(f"{self.clean[raw].mean():.6g}"),
                "corrupted": float(f"{self.corrupted[raw].mean():.6g}"),
                "n_prompts": self.n_prompts,
            }
            table = cell_table(self.cells, effect, told, self.job.seed, self.labels)
            tested = int(np.isfinite(table.numbers["p"]).sum())
            found[metric] = _with(table, {"n_cells": tested}, notes)
        return found


def _with(table: CellTable, settings: Mapping[str, int], notes: Sequence[str]) -> CellTable:
    return replace(table, settings={**table.settings, **settings}, notes=(*notes, *table.notes))
