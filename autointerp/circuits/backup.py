"""Heads that step in when others are taken out, and what taking out several does together.

1. Some heads are replaced at END (or another role), and every head's direct attribution is compared before and after.
   A head that writes more of the answer afterwards is a backup. The ratio of the final norm's divisors is reported
   beside it: attributions that all grow by that ratio are the norm's doing.
2. Joint ablation: the loss of logit difference of each node alone, of all together, and the difference. Where together
   is more than the sum, single ablations underrate redundant heads (scoring_validity rule 13).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int

from autointerp.circuits.ablation import Ablation, CircuitNode, Replacements, Selection, ablation_edits
from autointerp.circuits.attribution import attribute
from autointerp.circuits.cells import Cell, CellTable, cell_table
from autointerp.circuits.circuit import Circuit, CircuitRuns, CircuitSetting, check_circuit, estimate_mean
from autointerp.circuits.measures import Effects
from autointerp.circuits.prompts import ContrastSet
from autointerp.errors import BadInput
from autointerp.model import LanguageModel
from autointerp.model.patched_runs import Edit
from autointerp.stats.bootstrap import Estimate


@dataclass(frozen=True, eq=False)
class Backup:
    """`change`: rise of each head's attribution, those taken out NaN. `predicted`: the logit difference that the lost
    attributions alone would leave; `scale_ratio`: divisor before over divisor after, mean over prompts."""

    change: CellTable
    before: Float64[np.ndarray, "layer head"]
    after: Float64[np.ndarray, "layer head"]
    logit_diff: tuple[float, float]
    predicted: float
    scale_ratio: float


def backup_heads(
    model: LanguageModel, prompts: ContrastSet, nodes: Sequence[CircuitNode], ablation: Ablation
) -> Backup:
    """Take the nodes out and compare attributions. Raises BadInput without nodes or with resampled z (one draw is no
    state of the model)."""
    if not nodes or ablation.kind == "resample":
        raise BadInput("backup heads need at least one head to take out, and zero, mean or template_mean.")
    replacements = Replacements(model, prompts, ablation)
    selection = Selection(frozenset(nodes))

    def edits(rows: Int[np.ndarray, " part"]) -> list[Edit]:
        return ablation_edits(model, prompts.take(rows), [selection], (replacements, rows, 0))

    before, after = attribute(model, prompts), attribute(model, prompts, edits=edits)
    rise = after.heads - before.heads
    lost = sum(before.heads[node.head.layer, node.head.index].mean() for node in nodes)
    left = sum(after.heads[node.head.layer, node.head.index].mean() for node in nodes)
    for node in nodes:
        rise[node.head.layer, node.head.index] = np.nan
    cells = [Cell(layer, head, "END") for layer, head in np.ndindex(rise.shape[:2])]
    settings: dict[str, str | int | float] = {
        "set": prompts.name, "model": model.name, "taken_out": " ".join(map(str, sorted(nodes))),
        "ablation": ablation.kind, "metric": "rise of direct attribution",
    }  # fmt: skip
    table = cell_table(cells, Effects("logit_diff", rise.reshape(len(cells), -1)), settings, ablation.seed)
    whole = float(before.logit_diff.mean())
    return Backup(
        table, before.heads.mean(-1), after.heads.mean(-1), (whole, float(after.logit_diff.mean())),
        whole - float(lost) + float(left), float((before.scale / after.scale).mean()),
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class JointAblation:
    """Losses of logit difference (positive: the nodes help). `beyond`: together minus the sum of alone."""

    alone: dict[str, Estimate]
    together: Estimate
    beyond: Estimate
    setting: CircuitSetting


def joint_ablation(runs: CircuitRuns, nodes: Circuit) -> JointAblation:
    """Ablate each node alone and all together."""
    check_circuit(runs, nodes)
    if len(nodes) < 2:
        raise BadInput(f"{len(nodes)} nodes are to be ablated together. Name two or more.")
    order = sorted(nodes)
    selections = [Selection(frozenset()), Selection(nodes), *(Selection(frozenset([node])) for node in order)]
    values = runs.logit_diffs(selections)
    losses = values[0] - values[1:]
    alone = {str(node): estimate_mean(runs, row) for node, row in zip(order, losses[1:], strict=True)}
    beyond = losses[0] - losses[1:].sum(0)
    return JointAblation(alone, estimate_mean(runs, losses[0]), estimate_mean(runs, beyond), runs.setting(nodes))
