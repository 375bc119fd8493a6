"""Attribution patching: first-order estimates of all cells from one forward and one backward, the top confirmed.

The estimate of a cell is `(source - base) . d(metric) / d(activation)` with the gradient taken on the base run, summed
over the cell's positions and widths. It is a screen: the strongest cells are patched exactly, and only those numbers
are to be reported. (Nanda 2023; arXiv 2310.10348.)

`transformer_lens.tools.analysis.attribution_patch` is the same estimate for z and mlp_out, one pair at a time, at
absolute positions and in the denoising direction; here it covers every node, roles and both directions, in batches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from autointerp.circuits.cells import Cell, CellTable, cell_table
from autointerp.circuits.measures import Effects, check_metrics
from autointerp.circuits.patching import PatchPlan, cell_mask, has_path, patch, plan_cells
from autointerp.circuits.prompts import ContrastSet
from autointerp.circuits.runs import Batch, Progress, silent
from autointerp.errors import BadInput
from autointerp.model import LanguageModel
from autointerp.model.gradients import node_gradients
from autointerp.model.nodes import check_node, require_eval

CONFIRM = 10


@dataclass(frozen=True, eq=False)
class Screened:
    """Estimates of all cells; exact effects of the strongest; their correlation over those cells."""

    estimates: CellTable
    exact: CellTable
    agreement: float


def screen(
    model: LanguageModel, prompts: ContrastSet, plan: PatchPlan, confirm: int = CONFIRM, progress: Progress = silent
) -> Screened:
    """Estimate every cell of the plan for its first metric and patch the `confirm` strongest exactly.

    Raises BadInput for a metric without a useful gradient (rank has none, that of kl is 0 on the clean run).
    """
    plan = replace(plan, metrics=plan.metrics[:1]).check()
    metric = plan.metrics[0]
    if metric not in ("logit_diff", "log_prob", "prob"):
        raise BadInput(f"attribution patching needs a gradient; {metric} has none to use. Use logit_diff or log_prob.")
    if confirm < 1:
        raise BadInput(f"{confirm} cells are to be confirmed. An estimate alone is no result: give at least 1.")
    require_eval(model)
    check_metrics(plan.metrics, prompts)
    check_node(model, plan.node, model.to_ids(prompts.clean[:2]))
    prompts, cells = plan_cells(model, prompts, plan)
    paths = np.stack([has_path(model, cell, plan.node, prompts) for cell in cells])
    if not paths.any():
        raise BadInput(f"no cell of {plan.node} has a causal path to the last token. Choose other positions.")
    values = np.full(paths.shape, np.nan)
    job = replace(plan.job, nodes=tuple((plan.node, layer) for layer in range(model.n_layers)))
    for rows in prompts.batches(plan.batch_cells):
        values[:, rows] = _estimates(model, Batch.of(model, prompts.take(rows), rows, job), plan, cells)
    values[~paths] = np.nan
    settings: dict[str, str | int | float] = {
        "set": prompts.name, "model": model.name, "node": plan.node, "by": plan.by, "direction": plan.direction,
        "metric": metric, "method": "attribution patching (estimate)", "n_prompts": len(prompts),
    }  # fmt: skip
    table = cell_table(cells, Effects(metric, values), settings, plan.seed)
    top = table.strongest(confirm)
    exact = patch(model, prompts, plan, [cells[n] for n in top], progress)[metric]
    return Screened(table, exact, _correlation(table.mean[top], exact.mean))


def _estimates(
    model: LanguageModel, batch: Batch, plan: PatchPlan, cells: tuple[Cell, ...]
) -> Float[np.ndarray, "cell part"]:
    names = sorted(batch.source, key=lambda name: name[1])
    score = cast("Callable[[Tensor], Tensor]", batch.reader.differentiable(plan.metrics[0]))
    found = node_gradients(model, batch.base.ids, names, score)
    products = {
        layer: ((batch.source[node, layer].float() - value) * gradient).sum(-1)
        for (node, layer), (value, gradient) in found.items()
    }
    out = np.full((len(cells), len(batch.rows)), np.nan)
    for number, cell in enumerate(cells):
        product = products[cell.layer]
        if cell.head < product.shape[2]:
            mask = cell_mask(cell, batch.prompts, product.shape[2], product.shape[1]).to(product.device)
            out[number] = torch.where(mask, product, 0.0).sum((1, 2)).double().cpu().numpy()
    return out


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    if len(first) < 3 or not (np.std(first) > 0 and np.std(second) > 0):
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])
