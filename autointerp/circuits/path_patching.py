"""Path patching (arXiv 2211.00593): what senders change in an answer through chosen receivers alone.

1. Passes A and B: z of all heads on the new and on the original prompts.
2. Pass C: the original prompts with every head frozen but the sender, whose z is the new one at the position; MLPs and
   norms are recomputed or frozen. The receivers' q, k or v are read as they come out.
3. Pass D: the original prompts with only those q, k or v overwritten. Where the receiver is the final residual there is
   no pass D: the logits are read off pass C.

"Direct" means through the residual stream and the MLPs, not through other heads; with heads frozen nothing moves
between positions, so sender and receiver stand at the same position. `noise`: original clean, new corrupted (the
paper); `denoise`: the other way round. A sender reaches receivers in later layers only; elsewhere the cell is NaN. The
q, k and v of one group of receivers are overwritten together, and effects through them need not add up.

`transformer_lens.patching.get_act_patch_direct_path` is the edge from one head to one head's q, k or v on the stream
alone (here: `mlps="freeze"`), denoising, all positions, and no receiver at the logits; the tests compare with it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autointerp.circuits.cells import Cell, CellTable
from autointerp.circuits.measures import RATIOS, check_metrics
from autointerp.circuits.patching import has_path
from autointerp.circuits.prompts import ContrastSet
from autointerp.circuits.runs import BATCH_CELLS, DIRECTIONS, Batch, Direction, Gathered, Job, Progress, silent
from autointerp.errors import BadInput
from autointerp.model import LanguageModel, Rows
from autointerp.model.frozen_norm import FrozenNorm
from autointerp.model.nodes import NodeKind, check_node, n_indices, require_eval
from autointerp.model.patched_runs import Edit
from autointerp.model.path_runs import HeadsFrozen, PathRules, Receivers, Receiving, receiver_inputs
from autointerp.records import Head

RECOMPUTE = PathRules()


@dataclass(frozen=True, order=True)
class Receiver:
    """q, k or v of a head; prints and parses as `L8H6.q` (`8.6.q` is accepted)."""

    kind: Receiving
    head: Head

    def __str__(self) -> str:
        return f"{self.head}.{self.kind}"

    @classmethod
    def parse(cls, text: str) -> Receiver:
        match = re.fullmatch(r"\s*(.+)\.([qkv])\s*", text)
        try:
            if match is not None:
                kind = next(k for k in get_args(Receiving) if k == match[2])
                return cls(kind, Head.parse(match[1]))
        except ValueError:
            pass
        raise BadInput(f"{text!r} is no receiver. Write the q, k or v of a head: L8H6.q.")


@dataclass(frozen=True)
class PathPlan:
    """`senders`: groups of heads, each patched together (every head alone where empty). `receivers`: empty for the
    final residual. `position`: a role, at which senders are patched and receivers overwritten; empty for all."""

    direction: Direction = "noise"
    receivers: tuple[Receiver, ...] = ()
    position: str = ""
    rules: PathRules = RECOMPUTE
    senders: tuple[tuple[Head, ...], ...] = ()
    metrics: tuple[str, ...] = ("logit_diff",)
    ratio: str = "of_means"
    seed: int = 0
    batch_cells: int = BATCH_CELLS

    @property
    def job(self) -> Job:
        return Job(self.direction, self.metrics, self.ratio, self.seed)

    def check(self, model: LanguageModel) -> None:
        """Raises BadInput for what cannot be done."""
        check_metrics(self.metrics)
        known = ("recompute", "freeze")
        if self.direction not in DIRECTIONS or self.ratio not in RATIOS:
            raise BadInput(f"direction {self.direction}, ratio {self.ratio}: one of them is unknown.")
        if self.rules.mlps not in known or self.rules.norms not in known:
            raise BadInput(f"mlps {self.rules.mlps}, norms {self.rules.norms}: each is recompute or freeze.")
        for head in (*(h for group in self.senders for h in group), *(r.head for r in self.receivers)):
            if not (0 <= head.layer < model.n_layers and 0 <= head.index < model.n_heads):
                raise BadInput(
                    f"{head}: {model.name} has layers 0 to {model.n_layers - 1} with heads 0 to {model.n_heads - 1}."
                )
        if any(not group for group in self.senders):
            raise BadInput("a group of senders is empty. Name at least one head in each.")


def path_patch(
    model: LanguageModel, prompts: ContrastSet, plan: PathPlan, progress: Progress = silent
) -> dict[str, CellTable]:
    """Effect of each group of senders through the receivers, one table a metric.

    Raises BadInput where no sender has a path to the receivers, ModelError for architectures whose attention cannot be
    put aside exactly.
    """
    plan.check(model)
    require_eval(model)
    check_metrics(plan.metrics, prompts)
    for kind in sorted({receiver.kind for receiver in plan.receivers}):
        check_node(model, kind, model.to_ids(prompts.clean[:2]))
    work = _Work.of(model, prompts, plan)
    for number, rows in enumerate(parts := prompts.batches(plan.batch_cells)):
        progress("path patching", number, len(parts))
        work.run(prompts.take(rows), rows)
    progress("path patching", len(parts), len(parts))
    for values in work.gathered.patched.values():
        values[~work.paths] = np.nan
    rules = plan.rules
    settings: dict[str, str | int | float] = {
        "set": prompts.name, "model": model.name, "receivers": " ".join(map(str, plan.receivers)) or "final residual",
        "mlps": rules.mlps, "norms": rules.norms,
    }  # fmt: skip
    return work.gathered.tables(settings, (*prompts.notes, *_notes(model, plan)))


def _notes(model: LanguageModel, plan: PathPlan) -> tuple[str, ...]:
    tied = sorted(str(r) for r in plan.receivers if r.kind != "q" and model.n_kv_heads < model.n_heads)
    if not tied:
        return ()
    shared = model.n_heads // model.n_kv_heads
    return (f"keys and values are shared by {shared} heads: {', '.join(tied)} overwrite them for all that share",)


@dataclass(frozen=True, eq=False)
class _Work:
    model: LanguageModel
    plan: PathPlan
    groups: tuple[tuple[Head, ...], ...]
    gathered: Gathered
    paths: Bool[np.ndarray, "cell prompt"]
    top: int  # senders below this layer reach a receiver

    @classmethod
    def of(cls, model: LanguageModel, prompts: ContrastSet, plan: PathPlan) -> _Work:
        every = ((Head(layer=n, index=h),) for n in range(model.n_layers) for h in range(model.n_heads))
        groups = plan.senders or tuple(every)
        top = max((r.head.layer for r in plan.receivers), default=model.n_layers)
        cells = tuple(Cell(min(group).layer, min(group).index, plan.position) for group in groups)
        labels = tuple("+".join(str(head) for head in sorted(group)) for group in groups)
        live = _receivers_reach(model, prompts, plan)
        paths = np.array([cell.layer < top for cell in cells])[:, None] & live
        if not paths.any():
            where = f"at {plan.position}" if plan.position else "from these senders"
            raise BadInput(
                f"there is no path {where} to {' '.join(map(str, plan.receivers)) or 'the final residual'}: with all "
                "other heads frozen, a sender reaches receivers in later layers at its own position, and the final "
                "residual at END. Choose earlier senders or another position."
            )
        return cls(model, plan, groups, Gathered(cells, len(prompts), plan.job, labels), paths, top)

    def run(self, prompts: ContrastSet, numbers: Int[np.ndarray, " part"]) -> None:
        """All groups of senders on some prompts, as many side by side as fit."""
        rows = _rows(self.model, prompts, self.plan)
        frozen = HeadsFrozen(self.model, rows, self.plan.rules)
        layers = sorted({h.layer for group in self.groups for h in group if h.layer < self.top})
        names: list[tuple[NodeKind, int]] = [("z", layer) for layer in layers]
        job = replace(self.plan.job, nodes=tuple(names), read_base=True, around_base=frozen.watching())
        batch = Batch.of(self.model, prompts, numbers, job)
        self.gathered.add_unpatched(batch)
        frozen.take(batch.base.run)
        old, new = batch.own, batch.source
        writes = {
            layer: torch.einsum(
                "rhk,hkm->hrm",
                (new["z", layer] - old["z", layer])[rows.window, rows.pos].float(),
                self.model.W_O(layer),
            )
            for layer in layers
        }
        reached = np.flatnonzero(self.paths[:, batch.rows].any(1)).tolist()
        cost = len(rows.pos) if not self.plan.receivers else prompts.clean.size
        step = max(1, self.plan.batch_cells // cost)
        through = self._to_residual if not self.plan.receivers else self._to_receivers
        for start in range(0, len(reached), step):
            some = reached[start : start + step]
            moves: dict[int, dict[int, Tensor]] = {layer: {} for layer in layers}
            for variant, number in enumerate(some):
                for head in self.groups[number]:
                    if head.layer < self.top:
                        own = moves[head.layer]
                        own[variant] = own.get(variant, 0) + writes[head.layer][head.index]
            self.gathered.add(batch, some, through(batch, frozen, moves, len(some)))

    def _to_residual(
        self, batch: Batch, frozen: HeadsFrozen, moves: Mapping[int, Mapping[int, Tensor]], n: int
    ) -> Float[Tensor, "variant part d_model"]:
        streams = frozen.stream(self.model.n_layers).expand(n, -1, -1).clone()
        for after, active, moved in frozen.run_on(moves, self.top):
            if after == self.top:
                streams[active] = moved
        if self.plan.rules.norms == "freeze":
            clean = frozen.stream(self.model.n_layers)
            norm = FrozenNorm.of(self.model.bridge.ln_final, clean)
            return norm.apply(streams, norm.scale(clean).expand(n, -1)).to(streams.dtype)
        with torch.no_grad():
            normed: Tensor = self.model.bridge.ln_final(streams)
        return normed

    def _to_receivers(
        self, batch: Batch, frozen: HeadsFrozen, moves: Mapping[int, Mapping[int, Tensor]], n: int
    ) -> Float[Tensor, "variant part d_model"]:
        edits: list[Edit] = []
        by_layer: dict[int, list[Receiver]] = {}
        for receiver in self.plan.receivers:
            by_layer.setdefault(receiver.head.layer, []).append(receiver)
        for after, active, moved in frozen.run_on(moves, self.top):
            if after in by_layer:
                edits += self._overwrite(batch, frozen, by_layer[after], (active, moved, n))
        return batch.base.final(edits, n)

    def _overwrite(
        self, batch: Batch, frozen: HeadsFrozen, receivers: Sequence[Receiver], moved: tuple[list[int], Tensor, int]
    ) -> list[Edit]:
        """Edits that put the receivers' recomputed q, k, v in place, in the variants whose senders have moved."""
        active, streams, n = moved
        layer, model = receivers[0].head.layer, self.model
        rows = _rows(model, batch.prompts, self.plan)
        clean = batch.base.run.calls[layer].stream
        whole = clean.expand(len(active), *clean.shape).clone()
        whole[:, rows.window, rows.pos] = streams
        kinds = tuple(sorted({receiver.kind for receiver in receivers}))
        kept = clean.repeat(len(active), 1, 1) if self.plan.rules.norms == "freeze" else None
        wanted = Receivers(layer, kinds, batch.base.tiled(len(active))[layer], kept)
        found = receiver_inputs(model, wanted, whole.flatten(0, 1))
        edits: list[Edit] = []
        for kind in kinds:
            index = n_indices(model, kind)
            grid = found[kind].reshape(len(active), *clean.shape[:2], index, -1)
            mask = torch.zeros(n, *clean.shape[:2], index, dtype=torch.bool, device=grid.device)
            for receiver in receivers:
                if receiver.kind == kind:
                    own = receiver.head.index * index // model.n_heads
                    for variant in active:
                        mask[variant, rows.window, rows.pos, own] = True
            source = torch.zeros(n, *grid.shape[1:], dtype=grid.dtype, device=grid.device)
            source[active] = grid
            edits.append(Edit(kind, layer, mask, source))
        return edits


def _receivers_reach(model: LanguageModel, prompts: ContrastSet, plan: PathPlan) -> Bool[np.ndarray, " prompt"]:
    """Prompts in which some receiver at the position can still change the answer."""
    if not plan.position:
        return np.ones(len(prompts), dtype=bool)
    if not plan.receivers:
        return np.asarray(prompts.role(plan.position) == prompts.ends)
    reach = np.zeros(len(prompts), dtype=bool)
    for receiver in plan.receivers:
        reach |= has_path(model, Cell(receiver.head.layer, -1, plan.position), receiver.kind, prompts)
    return reach


def _rows(model: LanguageModel, prompts: ContrastSet, plan: PathPlan) -> Rows:
    """Where senders are patched and receivers read. The final residual is read at the ends alone."""
    device = model.device
    each = torch.arange(len(prompts), device=device)
    if not plan.receivers:
        return Rows(each, torch.from_numpy(prompts.ends).to(device))
    if plan.position:
        return Rows(each, torch.from_numpy(prompts.role(plan.position)).to(device))
    places = torch.arange(prompts.clean.shape[1], device=device)
    real = places < torch.from_numpy(prompts.lengths).to(device)[:, None]
    return Rows(*real.nonzero(as_tuple=True))
