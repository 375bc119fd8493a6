"""Activation patching: put a node's activation of the source run into the base run, cell by cell.

`denoise`: base corrupted, source clean (is the node enough to restore the answer?). `noise`: base clean, source
corrupted (is it needed?). Redundant parts show under denoising, parts that work only together under noising.

1. Cells: (layer, head, position). A position is a role, one place in each prompt; masks are written row by row.
2. Cells of a layer run side by side, resumed from that layer (`model.patched_runs`).
3. A cell from which no path leads to the last token of a prompt is NaN for that prompt.

`transformer_lens.patching.get_act_patch_*` define the same for one position index shared by all prompts, one whole
forward a cell, denoising only; the tests compare with them. Heads of keys and values that a grouped-query model does
not have are NaN here and 0 there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from autointerp.circuits.cells import Cell, CellTable
from autointerp.circuits.measures import RATIOS, check_metrics
from autointerp.circuits.prompts import ContrastSet
from autointerp.circuits.runs import BATCH_CELLS, DIRECTIONS, Batch, Direction, Gathered, Job, Progress, silent
from autointerp.errors import BadInput
from autointerp.model import LanguageModel
from autointerp.model.nodes import HEAD_NODES, KINDS, NodeKind, check_node, n_indices, require_eval
from autointerp.model.patched_runs import Edit

BY = ("head", "position", "head-position")
_LATE = ("z", "q", "pattern", "resid_mid", "resid_post", "attn_out", "mlp_out")  # not read by later positions


@dataclass(frozen=True)
class PatchPlan:
    """`positions`: roles (all of the set where empty), or `("each",)` for every index of equally long prompts."""

    node: NodeKind
    by: str
    direction: Direction
    metrics: tuple[str, ...] = ("logit_diff",)
    positions: tuple[str, ...] = ()
    ratio: str = "of_means"
    seed: int = 0
    batch_cells: int = BATCH_CELLS

    def check(self) -> PatchPlan:
        """The plan itself; raises BadInput for what no model could do."""
        if self.node not in KINDS:
            raise BadInput(f"--node {self.node} is unknown. Known are {', '.join(KINDS)}.")
        if self.by not in BY or self.direction not in DIRECTIONS or self.ratio not in RATIOS:
            raise BadInput(f"by {self.by}, direction {self.direction}, ratio {self.ratio}: one of them is unknown.")
        if self.node not in HEAD_NODES and self.by != "position":
            raise BadInput(f"--node {self.node} has no heads. Use --by position, or a node of heads ({HEAD_NODES}).")
        if self.by == "head" and self.positions:
            raise BadInput("--by head patches all positions. Use --by head-position to choose positions.")
        check_metrics(self.metrics)
        return self

    @property
    def job(self) -> Job:
        return Job(self.direction, self.metrics, self.ratio, self.seed)


def plan_cells(model: LanguageModel, prompts: ContrastSet, plan: PatchPlan) -> tuple[ContrastSet, tuple[Cell, ...]]:
    """All cells of a plan, layer by layer, and the set with `each` index as a role where that was asked for."""
    heads: Sequence[int] = range(model.n_heads) if plan.by != "position" else (-1,)
    positions: Sequence[str] = ("",)
    if plan.by != "head":
        positions = plan.positions or tuple(prompts.roles)
        if tuple(positions) == ("each",):
            prompts = each_index(prompts)
            positions = tuple(prompts.roles)
        for name in positions:
            prompts.role(name)
    return prompts, tuple(Cell(n, h, p) for n in range(model.n_layers) for p in positions for h in heads)


def each_index(prompts: ContrastSet) -> ContrastSet:
    """The set with every index as a role (END under its number). Raises BadInput for prompts of unequal length."""
    sizes = np.unique(prompts.lengths)
    if len(sizes) != 1:
        raise BadInput(
            f"the prompts of {prompts.name} have {sizes.min()} to {sizes.max()} tokens, so an index is not one place "
            "in all of them. Name roles in --positions."
        )
    last = int(sizes[0]) - 1
    roles = {str(n): np.full(len(prompts), n) for n in range(last)} | {"END": prompts.ends}
    return replace(prompts, roles=roles)


def has_path(model: LanguageModel, cell: Cell, node: NodeKind, prompts: ContrastSet) -> Bool[np.ndarray, " prompt"]:
    """Prompts whose answer the cell can reach at all."""
    if cell.head >= n_indices(model, node):
        return np.zeros(len(prompts), dtype=bool)
    if not cell.position:
        return np.ones(len(prompts), dtype=bool)
    at, ends = prompts.role(cell.position), prompts.ends
    reaches = at <= ends
    if cell.layer == model.n_layers - 1 and node in _LATE:
        reaches = reaches & (at == ends)
    if node in ("q", "pattern") and not model.sink_logits:
        reaches = reaches & (at > 0)  # the only source there has all of the attention anyway
    return np.asarray(reaches)


def cell_mask(cell: Cell, prompts: ContrastSet, n: int, size: int) -> Bool[Tensor, "prompt pos index"]:
    """Where a cell is patched: one position a prompt (all without a role), one index (all without a head)."""
    mask = torch.zeros(len(prompts), size, n, dtype=torch.bool)
    each = torch.arange(len(prompts))
    places = torch.ones(len(prompts), size, dtype=torch.bool)
    if cell.position:
        places = torch.zeros_like(places)
        places[each, torch.from_numpy(prompts.role(cell.position))] = True
    index = slice(None) if cell.head < 0 else cell.head
    mask[:, :, index] = places[:, :, None] if cell.head < 0 else places
    return mask


def patch(
    model: LanguageModel,
    prompts: ContrastSet,
    plan: PatchPlan,
    cells: Sequence[Cell] | None = None,
    progress: Progress = silent,
) -> dict[str, CellTable]:
    """Effects of patching each cell (all of the plan, or `cells`), one table a metric.

    Raises BadInput for a plan that the model, the answers or the roles do not allow, and where no cell has a path.
    """
    plan.check()
    require_eval(model)
    check_metrics(plan.metrics, prompts)
    check_node(model, plan.node, model.to_ids(prompts.clean[:2]))
    prompts, planned = plan_cells(model, prompts, plan)
    chosen = planned if cells is None else tuple(cells)
    paths = np.stack([has_path(model, cell, plan.node, prompts) for cell in chosen])
    if not paths.any():
        raise BadInput(
            f"no cell has a causal path to the last token: {plan.node} at {', '.join(plan.positions) or 'these roles'} "
            "cannot change the answer. Choose other positions or another node."
        )
    gathered = Gathered(chosen, len(prompts), plan.job)
    layers = sorted({chosen[n].layer for n in np.flatnonzero(paths.any(1))})
    job = replace(plan.job, nodes=tuple((plan.node, layer) for layer in layers))
    work = _Work(model, plan, gathered, paths)
    parts = prompts.batches(plan.batch_cells)
    for number, rows in enumerate(parts):
        progress("patching", number, len(parts))
        work.run(Batch.of(model, prompts.take(rows), rows, job))
    progress("patching", len(parts), len(parts))
    for values in gathered.patched.values():
        values[~paths] = np.nan
    settings = {"set": prompts.name, "model": model.name, "node": plan.node, "by": plan.by}
    return gathered.tables(settings, (*prompts.notes, *_notes(model, plan)))


@dataclass(frozen=True, eq=False)
class _Work:
    model: LanguageModel
    plan: PatchPlan
    gathered: Gathered
    paths: Bool[np.ndarray, "cell prompt"]

    def run(self, batch: Batch) -> None:
        """All cells of one batch, layer by layer, as many side by side as fit."""
        cells, node = self.gathered.cells, self.plan.node
        self.gathered.add_unpatched(batch)
        wanted = [n for n in range(len(cells)) if self.paths[n, batch.rows].any()]
        layers = sorted({cells[n].layer for n in wanted})
        size = batch.prompts.clean.shape[1]
        step = max(1, self.plan.batch_cells // (len(batch.rows) * size))
        for layer in layers:
            here = [n for n in wanted if cells[n].layer == layer]
            grid = batch.source[node, layer]
            for start in range(0, len(here), step):
                some = here[start : start + step]
                masks = [cell_mask(cells[n], batch.prompts, grid.shape[2], size) for n in some]
                edit = Edit(node, layer, torch.stack(masks).to(grid.device), grid[None])
                self.gathered.add(batch, some, batch.base.final([edit], len(some)))


def _notes(model: LanguageModel, plan: PatchPlan) -> tuple[str, ...]:
    if plan.node not in ("k", "v") or model.n_kv_heads == model.n_heads or plan.by == "position":
        return ()
    shared = model.n_heads // model.n_kv_heads
    return (
        f"{model.n_kv_heads} heads of keys and values serve {model.n_heads} heads: cell {plan.node} of head h patches "
        f"what heads {shared}h to {shared}h+{shared - 1} share, and cells from {model.n_kv_heads} on are NaN",
    )
