"""From the answer back to what feeds it: path patching stage by stage, heads found by what they do (section 6).

1. Senders to the logits at END. Those whose replacement by the reference (`abc`) lowers the logit difference are
   movers, those that raise it are negative movers.
2. For a group found at a position: senders to its queries there, and to its keys and values at every role that the
   group attends to. The groups so found are followed in the same way, until nothing is found.

A sender counts where its mean differs from 0 at a false discovery rate of 5 % and is at least `least` of the model's
logit difference. Names of classes are not used: a stage says what was fed, where, and by which heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64

from autointerp.circuits.ablation import CircuitNode
from autointerp.circuits.cells import CellTable
from autointerp.circuits.circuit import Circuit
from autointerp.circuits.path_patching import PathPlan, Receiver, path_patch
from autointerp.circuits.prompts import ContrastSet
from autointerp.circuits.runs import BATCH_CELLS, Progress, silent
from autointerp.errors import BadInput
from autointerp.model import LanguageModel, Layer
from autointerp.model.path_runs import Receiving
from autointerp.records import Head, Interval

KINDS: tuple[Receiving, ...] = ("q", "k", "v")


@dataclass(frozen=True)
class TraceSpec:
    """`least`: share of the mean logit difference that a sender must move; `attended`: mean attention from which a
    role's keys and values are followed; `depth`: stages behind the movers; `roles`: places that may be followed."""

    least: float = 0.02
    attended: float = 0.1
    depth: int = 3
    roles: tuple[str, ...] = ("IO", "S1", "S1+1", "S2", "END")
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Stage:
    """Senders into one kind of input of a group (`logits` for the answer) at a position.

    `helping`: their replacement lowers the logit difference; `hurting`: it raises it. Strongest first.
    """

    into: str
    receivers: tuple[Head, ...]
    position: str
    table: CellTable
    helping: tuple[Head, ...]
    hurting: tuple[Head, ...]

    @property
    def senders(self) -> tuple[Head, ...]:
        return (*self.helping, *self.hurting)

    def effect(self, head: Head) -> Interval:
        """Change of the logit difference when the head's path into this is replaced, over prompts."""
        n = next(n for n, cell in enumerate(self.table.cells) if (cell.layer, cell.head) == (head.layer, head.index))
        low, high = (float(self.table.numbers[name][n]) for name in ("low", "high"))
        return Interval(value=float(self.table.mean[n]), low=low, high=high, n=int(self.table.n[n]))


def role_attention(
    model: LanguageModel, prompts: ContrastSet, roles: Sequence[str]
) -> Float64[np.ndarray, "layer head dst src"]:
    """Mean attention on the clean prompts from each role to each role; NaN where the source comes later in some
    prompt."""
    found = prompt_attention(model, prompts, [(dst, src) for dst in roles for src in roles]).mean(-1)
    shape = (model.n_layers, model.n_heads, len(roles), len(roles))
    return np.asarray(np.moveaxis(found, 0, -1).reshape(shape))


def prompt_attention(
    model: LanguageModel, prompts: ContrastSet, pairs: Sequence[tuple[str, str]]
) -> Float64[np.ndarray, "pair layer head prompt"]:
    """Attention of each clean prompt between pairs of roles (destination, source); NaN where the source comes later."""
    places = np.array([[prompts.role(dst), prompts.role(src)] for dst, src in pairs])
    found = np.zeros((len(pairs), model.n_layers, model.n_heads, len(prompts)))
    for rows in prompts.batches(BATCH_CELLS):
        at = torch.from_numpy(places[..., rows]).to(model.device)
        each = torch.arange(len(rows), device=model.device)

        def read(layer: Layer, at: torch.Tensor = at, each: torch.Tensor = each, rows: np.ndarray = rows) -> None:
            for number, (dst, src) in enumerate(at):
                cell = layer.pattern[each, :, dst, src].double().T
                found[number, layer.index][:, rows] = cell.cpu().numpy()

        model.read_attention(model.to_ids(prompts.take(rows).clean), list(range(model.n_layers)), read)
    later = places[:, 0] < places[:, 1]
    return np.asarray(np.where(later[:, None, None], np.nan, found))


def trace(
    model: LanguageModel, prompts: ContrastSet, spec: TraceSpec | None = None, progress: Progress = silent
) -> tuple[Stage, ...]:
    """All stages, the logits first. `prompts`: clean beside the reference distribution (`ioi_set(..., "abc")`)."""
    spec = spec or TraceSpec()
    for role in spec.roles:
        prompts.role(role)
    attention = role_attention(model, prompts, spec.roles)
    first = find_senders(model, prompts, spec, ("logits", (), "END"))
    found, seen = [first], set[tuple[Head, str]]()
    frontier = [(first.senders, "END")]
    for _ in range(spec.depth):
        following: list[tuple[tuple[Head, ...], str]] = []
        for heads, position in frontier:
            fresh = tuple(head for head in heads if (head, position) not in seen)
            seen.update((head, position) for head in fresh)
            for kind, place in _inputs(spec, attention, fresh, position):
                progress("tracing", len(found), len(found) + 1)
                stage = find_senders(model, prompts, spec, (kind, fresh, place))
                found.append(stage)
                following.append((stage.senders, place))
        frontier = following
    progress("tracing", len(found), len(found))
    return tuple(found)


def _inputs(
    spec: TraceSpec, attention: Float64[np.ndarray, "layer head dst src"], heads: Sequence[Head], position: str
) -> list[tuple[Receiving, str]]:
    """Queries at the group's position, keys and values at the roles that it attends to."""
    inner = [head for head in heads if head.layer > 0]  # nothing sends to layer 0
    if not inner:
        return []
    dst = spec.roles.index(position)
    found: list[tuple[Receiving, str]] = [("q", position)]
    for src, role in enumerate(spec.roles):
        looks = [attention[head.layer, head.index, dst, src] for head in inner]
        if np.nan_to_num(looks).max() >= spec.attended:
            found += [("k", role), ("v", role)]
    return found


def find_senders(
    model: LanguageModel, prompts: ContrastSet, spec: TraceSpec, what: tuple[str, Sequence[Head], str]
) -> Stage:
    """Senders into `what`: logits, q, k or v; of which heads; at which position."""
    into, heads, position = what
    inner = tuple(head for head in heads if head.layer > 0)
    kind = next((k for k in KINDS if k == into), None)
    receivers = () if kind is None else tuple(Receiver(kind, head) for head in inner)
    table = path_patch(model, prompts, PathPlan("noise", receivers, position, seed=spec.seed))["logit_diff"]
    needed = spec.least * abs(float(table.settings["clean"]))
    strong = [n for n in table.strongest(len(table.cells)) if table.flagged[n] and abs(table.mean[n]) >= needed]
    named = {n: Head(layer=table.cells[n].layer, index=table.cells[n].head) for n in strong}
    helping = tuple(named[n] for n in strong if table.mean[n] < 0)
    hurting = tuple(named[n] for n in strong if table.mean[n] > 0)
    return Stage(into, inner, position, table, helping, hurting)


def traced_circuit(stages: Sequence[Stage]) -> Circuit:
    """Every head that was found, at the position at which it sends. Raises BadInput where none was."""
    nodes = frozenset(CircuitNode(head, stage.position) for stage in stages for head in stage.senders)
    if not nodes:
        raise BadInput("no head moves the answer, so there is no circuit. Check that the model does the task.")
    return nodes
