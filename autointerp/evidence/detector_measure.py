"""Detector values of all heads on some rows: one forward a batch, one product a layer (attention_evidence 6).

1. Rows run in batches of a fixed number of tokens; each layer's pattern is read in the hook and dropped.
2. The cells of all targets times the pattern give every value of a row and head at once.
3. Cells may come from other ids than those that are fed: the shuffled null feeds shuffled tokens, keeps the cells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float64, Int
from torch import Tensor

from autointerp.evidence.detector_classes import (
    CLASSES,
    ClassMasks,
    class_shares,
    counted_rows,
    expected_pattern,
)
from autointerp.evidence.detector_data import DelimiterRows, TextRows
from autointerp.evidence.detector_targets import (
    LAST,
    Targets,
    last_sources,
    repeat_masks,
    text_masks,
)
from autointerp.evidence.rows import TAU, Masks
from autointerp.model import LanguageModel, Layer

BATCH_TOKENS = 2048
Values = Float64[np.ndarray, "row head"]
PerHead = Float64[np.ndarray, " head"]


@dataclass(frozen=True)
class Measured:
    """A detector on some rows; axis `head` runs over all heads, layer by layer. NaN: the row has no such target.

    `uniform`: the value of an even head on the same cells. `more`: other means, by name.
    """

    value: Values
    uniform: Values
    more: dict[str, Values]


class _Table:
    """Collects `[row head]` numbers by name, layer by layer and batch by batch."""

    def __init__(self, n_rows: int, model: LanguageModel) -> None:
        self._shape = (n_rows, model.n_layers * model.n_heads)
        self._per_layer = model.n_heads
        self.found: dict[str, Values] = {}

    def put(self, name: str, rows: slice, layer: int, values: Tensor) -> None:
        """`values [row head]` (or `[row 1]`) of one layer."""
        table = self.found.setdefault(name, np.full(self._shape, np.nan))
        table[rows, layer * self._per_layer : (layer + 1) * self._per_layer] = values.double().cpu().numpy()

    def measured(self, name: str, more: tuple[str, ...] = ()) -> Measured:
        return Measured(self.found[name], self.found[f"{name}/uniform"], {m: self.found[f"{name}/{m}"] for m in more})


def run_rows(model: LanguageModel, ids: Int[np.ndarray, "row pos"], read: Callable[[slice, Layer], None]) -> None:
    step = max(1, BATCH_TOKENS // ids.shape[1])
    for start in range(0, len(ids), step):
        rows = slice(start, min(start + step, len(ids)))
        model.read_attention(model.to_ids(ids[rows]), list(range(model.n_layers)), partial(read, rows))


def _put_targets(table: _Table, rows: slice, layer: Layer, targets: Targets) -> None:
    values, even = targets.values(layer.pattern), targets.uniform()
    for k, name in enumerate(targets.names):
        table.put(name, rows, layer.index, values[:, k])
        table.put(f"{name}/uniform", rows, layer.index, even[:, k, None].expand(-1, values.shape[2]))


def measure_repeats(
    model: LanguageModel, ids: Int[np.ndarray, "row pos"], length: int, only: tuple[str, ...] = ()
) -> dict[str, Measured]:
    """Positional, duplicate and induction values on repeated rows (`length` ids in a repeat).

    `only`: names to measure; all, with the argmax rate of the previous token, where it is empty.
    """
    start = ids.shape[1] - 2 * length
    masks = repeat_masks(length, start, model.device)
    targets = Targets.of({n: m for n, m in masks.items() if not only or n in only})
    table = _Table(len(ids), model)
    there = torch.ones(1, ids.shape[1], dtype=torch.bool, device=model.device)
    there[:, 0] = False

    def read(rows: slice, layer: Layer) -> None:
        size = rows.stop - rows.start
        here = Targets(targets.names, targets.cells.expand(size, -1, -1, -1), targets.present.expand(size, -1))
        _put_targets(table, rows, layer, here)
        if not only:
            table.put("previous_token/argmax_rate", rows, layer.index, _argmax_rate(layer, there.expand(size, -1)))

    run_rows(model, ids, read)
    return _collect(table, targets.names)


def _collect(table: _Table, names: tuple[str, ...]) -> dict[str, Measured]:
    return {
        name: table.measured(name, ("argmax_rate",) if f"{name}/argmax_rate" in table.found else ()) for name in names
    }


def _argmax_rate(layer: Layer, allowed: Tensor) -> Tensor:
    """How often the strongest source off the sink is the one before; destinations with two sources or more."""
    masked = layer.pattern * allowed[:, None, None, :]
    best = masked.argmax(-1)
    positions = torch.arange(best.shape[-1], device=best.device)
    rows = allowed & (positions >= 2)
    hit = ((best == positions - 1) & rows[:, None]).float().sum(-1)
    return hit / rows.sum(-1, keepdim=True).clamp_min(1)


def measure_delimiters(
    model: LanguageModel, rows: DelimiterRows, fed: Int[np.ndarray, "row pos"] | None = None
) -> dict[str, Measured]:
    """Attention from closing signs and from inside to the matching opening sign; both kinds weigh the same."""
    masks = {name: torch.from_numpy(getattr(rows, name)).to(model.device) for name in ("closing", "inside", "other")}
    targets = Targets.of(masks)
    table = _Table(len(rows.ids), model)

    def read(part: slice, layer: Layer) -> None:
        _put_targets(table, part, layer, Targets(targets.names, targets.cells[part], targets.present[part]))

    run_rows(model, rows.ids if fed is None else fed, read)
    closing, inside, other = (table.measured(n) for n in targets.names)
    more = {"closing": closing.value, "inside": inside.value, "other_opening": other.value}
    value, uniform = (closing.value + inside.value) / 2, (closing.uniform + inside.uniform) / 2
    return {"delimiter_matching": Measured(value, uniform, more)}


@dataclass(frozen=True)
class TextPlan:
    """How text is measured: its rows, what is really fed, the classes, the positional expectation of shares."""

    text: TextRows
    classes: ClassMasks
    fed: Int[np.ndarray, "row pos"] | None = None
    expected_share: np.ndarray | None = None  # [head row_bucket bucket]


def measure_text(model: LanguageModel, plan: TextPlan) -> dict[str, Measured]:
    """All values on real text, the classes as `class/NAME`."""
    reader = _TextReader(model, plan)
    run_rows(model, plan.text.ids if plan.fed is None else plan.fed, reader.read)
    return reader.result()


class _TextReader:
    def __init__(self, model: LanguageModel, plan: TextPlan) -> None:
        self._model, self._plan = model, plan
        self._table = _Table(len(plan.text.lengths), model)
        self._names: tuple[str, ...] = ()
        self._batch: tuple[int, Tensor, Masks, Targets] | None = None
        width = plan.text.ids.shape[1]
        heads = model.n_layers * model.n_heads
        self._expected = expected_pattern(plan.expected_share, heads, width)

    def read(self, rows: slice, layer: Layer) -> None:
        ids, masks, targets = self._prepared(rows)
        pattern = layer.pattern.float()
        _put_targets(self._table, rows, layer, targets)
        self._table.put("previous_token/argmax_rate", rows, layer.index, _argmax_rate(layer, masks.allowed))
        self._local(rows, Layer(layer.index, pattern, layer.v, layer.z), masks)
        heads = slice(layer.index * self._model.n_heads, (layer.index + 1) * self._model.n_heads)
        shared = torch.from_numpy(self._plan.classes.shared[:, rows]).to(ids.device)
        own = torch.from_numpy(self._plan.classes.own_of_token[heads]).to(ids.device)[:, ids].transpose(0, 1)
        expected = torch.from_numpy(np.ascontiguousarray(self._expected[heads])).to(ids.device)
        found = class_shares(pattern, masks, (shared, own), expected)
        for k, name in enumerate(CLASSES):
            self._table.put(f"class/{name}", rows, layer.index, found.share[k])
            self._table.put(f"class/{name}/uniform", rows, layer.index, found.available[k])
            self._table.put(f"class/{name}/expected", rows, layer.index, found.expected[k])
            self._table.put(f"class/{name}/nearest", rows, layer.index, found.nearest[k])

    def _prepared(self, rows: slice) -> tuple[Tensor, Masks, Targets]:
        """Cells of a batch, made at its first layer; always from the unshuffled ids."""
        if self._batch is None or self._batch[0] != rows.start:
            model, text = self._model, self._plan.text
            ids = model.to_ids(text.ids[rows])
            lengths = torch.from_numpy(np.asarray(text.lengths[rows], dtype=np.int64)).to(ids.device)
            masks = Masks.of(ids, lengths, model.special_ids)
            start = int(model.bos_id is not None)
            real = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
            targets = Targets.of(text_masks(ids, real, masks.allowed, start))
            self._names, self._batch = targets.names, (rows.start, ids, masks, targets)
        return self._batch[1:]

    def _local(self, rows: slice, layer: Layer, masks: Masks) -> None:
        """`local_context`."""
        mass, valid, n_allowed = counted_rows(layer.pattern, masks)
        shares = layer.pattern * (valid / mass.clamp_min(TAU))[..., None]
        far = valid & (n_allowed >= 5 * LAST)[:, None]  # an even head gives the last 8 at most a fifth there
        inside = last_sources(shares)
        total = inside.sum(-1)
        part = (inside / total.clamp_min(1e-9)[..., None]).clamp_min(1e-12)
        broad = -(part * part.log()).sum(-1) / np.log(LAST) > 0.5
        count = far.sum(-1)
        value = (total * broad * far).sum(-1) / count.clamp_min(1)
        even = (LAST / n_allowed.clamp_min(LAST)[:, None] * far).sum(-1) / count.clamp_min(1)
        for name, found in (("local_context", value), ("local_context/uniform", even)):
            self._table.put(name, rows, layer.index, torch.where(count > 0, found, torch.nan))

    def result(self) -> dict[str, Measured]:
        out = _collect(self._table, (*self._names, "local_context"))
        for name in CLASSES:
            out[f"class/{name}"] = self._table.measured(f"class/{name}", ("expected", "nearest"))
        return out | {"punctuation": out["class/punctuation"]}
