"""First pass over the explain split: what every unit of every site does, in one stream.

1. Every batch of windows runs once, up to the last site; a site's activations are read in its hook and dropped.
2. A window's rows are taken in the order of a seeded hash. Of each unit: the number of rows above 0, the sum, the
   largest activation, and the first row above 0, which is a uniform draw from them.
3. The windows of a document are joined; a closed document offers its largest activation to the unit's top list and
   its drawn row to the unit's reservoir, so that both hold one row a document.
4. All units' activations at some shared random rows are kept as float16.

Neurons are read on both sides: side 1 is that of negative activations, turned. Positions 0, control tokens and pads
are never read. Memory is bounded by units, not by the corpus; nothing depends on the order of documents, and on the
batch size only what rounding does.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float16, Float32, Float64, Int, UInt64
from torch import Tensor

from autointerp.evidence.collect import ExplainWindows
from autointerp.evidence.first_pass import Batch
from autointerp.evidence.hashing import document_keys
from autointerp.features.best_of_documents import BestEntries, Entries, value_keys
from autointerp.features.pass_window import Chosen, Floors, Seen, see_window
from autointerp.features.text_rows import Rows, hashes_of_rows, is_row, shared_rows
from autointerp.model import LanguageModel, UnitSite, read_units

TOP, RESERVOIR, SHARED_ROWS = 16, 32, 1024
_CHECKPOINT_SECONDS = 30.0
HALF_MAX = 65504.0  # the largest float16


@dataclass
class UnitPass:
    """State and result of the pass. Axis `unit` runs over all units of all sites in order, `side` over the positive
    and, for neurons, the turned negative activations."""

    rows_above: Int[np.ndarray, "side unit"]
    sums: Float64[np.ndarray, " unit"]
    extremes: Float32[np.ndarray, "2 unit"]  # least and largest activation
    top: list[BestEntries]  # by side
    reservoir: list[BestEntries]
    open_best: list[Entries]  # of the open document, by side: largest activation
    open_drawn: list[Entries]  # its drawn row
    places: Rows
    documents: Int[np.ndarray, " row"]  # of the places
    shared: Float16[np.ndarray, "row unit"]  # raw activations at `places`
    progress: Int[np.ndarray, " 4"]  # windows read, rows read, documents closed, the open document or -1
    identity: Int[np.ndarray, " 3"]  # of seed and split: another's checkpoint is not read

    @classmethod
    def empty(cls, n_units: int, n_sides: int, places: Rows, identity: tuple[int, int, int] = (0, 0, 0)) -> UnitPass:
        def each(make: Callable[[], BestEntries]) -> list[BestEntries]:
            return [make() for _ in range(n_sides)]

        return cls(
            np.zeros((n_sides, n_units), np.int64),
            np.zeros(n_units),
            np.stack([np.full(n_units, np.inf, np.float32), np.full(n_units, -np.inf, np.float32)]),
            each(lambda: BestEntries.empty(n_units, TOP)),
            each(lambda: BestEntries.empty(n_units, RESERVOIR)),
            [Entries.empty(n_units) for _ in range(n_sides)],
            [Entries.empty(n_units) for _ in range(n_sides)],
            places,
            np.arange(len(places)),  # until they are known, each row counts as a document
            np.full((len(places), n_units), 0, np.float16),
            np.array([0, 0, 0, -1], np.int64),
            np.array(identity, np.int64),
        )

    @property
    def n_sides(self) -> int:
        return len(self.top)


def run_unit_pass(
    model: LanguageModel,
    explain: ExplainWindows,
    sites: tuple[UnitSite, ...],
    plan: PassPlan,
    progress: Callable[[int], None] | None = None,
) -> UnitPass:
    """Read the whole split, or the rest of it where the plan's checkpoint holds a state of the same split."""
    from autointerp.features.pass_checkpoint import load_state, save_state

    reader = UnitPassReader(model, explain, sites, plan)
    state, path = reader.state, plan.checkpoint
    if path is not None and path.exists():
        load_state(state, path)
    saved = time.monotonic()
    for batch in explain.batches(plan.batch_size)(int(state.progress[0])):
        reader.read(batch)
        if progress is not None:
            progress(int(state.progress[0]))
        if path is not None and time.monotonic() - saved > plan.every:
            save_state(state, path)
            saved = time.monotonic()
    reader.close_document()
    return state


@dataclass(frozen=True)
class PassPlan:
    """How a pass runs; the seed chooses which rows are drawn."""

    seed: int
    batch_size: int = 8
    checkpoint: Path | None = None
    every: float = _CHECKPOINT_SECONDS


@dataclass(frozen=True)
class _WindowRows:
    """The rows of one window of a batch, in the order of their hashes."""

    number: int  # in the corpus
    document: int
    dst: Int[np.ndarray, " row"]
    keys: UInt64[np.ndarray, " row"]  # descending
    order: Tensor  # dst on the model's device
    shared: Int[np.ndarray, " some"]  # which of the shared rows are here


@dataclass
class UnitPassReader:
    """Runs batches and adds what they show to `state`."""

    model: LanguageModel
    explain: ExplainWindows
    sites: tuple[UnitSite, ...]
    plan: PassPlan
    state: UnitPass = field(init=False)

    def __post_init__(self) -> None:
        special = self.model.special_ids
        places = shared_rows(self.explain, special, SHARED_ROWS, self.plan.seed)
        sides = 2 if any(site.kind == "neuron" for site in self.sites) else 1
        self._starts = np.cumsum([0, *(site.n_units for site in self.sites)])
        split = zlib.crc32(np.ascontiguousarray(self.explain.numbers, np.int64).tobytes())
        identity = (self.plan.seed, len(self.explain.numbers), split)
        self.state = UnitPass.empty(int(self._starts[-1]), sides, places, identity)
        self.state.documents = np.asarray(self.explain.windows.doc[self.explain.numbers[places[:, 0]]])
        self._keys = document_keys(self.explain.windows.doc_ids)

    def read(self, batch: Batch) -> None:
        """One forward of the batch."""
        state = self.state
        windows = self._windows(batch)
        found: list[list[Seen]] = [[] for _ in windows]

        def keep(site: int, values: Float[Tensor, "batch pos unit"]) -> None:
            for row, window in enumerate(windows):
                if len(window.dst):
                    found[row].append(self._window(site, values[row], window))

        size = int(np.asarray(batch.lengths).max())
        read_units(self.model, self.model.to_ids(batch.ids[:, :size]), self.sites, keep)
        for window, parts in zip(windows, found, strict=True):
            if window.document != int(state.progress[3]):
                self.close_document()
                state.progress[3] = window.document
            for part in parts:
                self._join(part, window)
        state.progress[:2] += len(windows), sum(len(w.dst) for w in windows)

    def _windows(self, batch: Batch) -> list[_WindowRows]:
        there = is_row(batch.ids, np.asarray(batch.lengths), self.model.special_ids)
        hashes = hashes_of_rows(self.explain, batch.windows, self.plan.seed, there.shape[1])
        first, found = int(self.state.progress[0]), []
        for row, number in enumerate(batch.windows.tolist()):
            dst = np.flatnonzero(there[row])
            keys = np.maximum(~hashes[row, dst], np.uint64(1))  # the smallest hash is the largest key
            order = np.argsort(keys)[::-1]
            here = np.arange(*np.searchsorted(self.state.places[:, 0], [first + row, first + row + 1]))
            on_device = torch.from_numpy(dst[order]).to(self.model.device)
            found.append(_WindowRows(number, int(batch.doc[row]), dst[order], keys[order], on_device, here))
        return found

    def _window(self, site: int, values: Float[Tensor, "pos unit"], window: _WindowRows) -> Seen:
        part = slice(*self._starts[site : site + 2])
        for place in window.shared:
            raw = values[int(self.state.places[place, 1])].clamp(-HALF_MAX, HALF_MAX)
            self.state.shared[place, part] = raw.cpu().numpy().astype(np.float16)
        floors = [
            Floors((top.least[part] >> np.uint64(32)).astype(np.uint32).view(np.float32), drawn.least[part])
            for top, drawn in zip(self.state.top, self.state.reservoir, strict=True)
        ]
        return see_window(site, values.index_select(0, window.order), window.keys, floors)

    def _join(self, seen: Seen, window: _WindowRows) -> None:
        """Add one window of one site to the state and to the open document."""
        state, start = self.state, int(self._starts[seen.site])
        part = slice(start, start + len(seen.sums))
        state.sums[part] += seen.sums
        np.minimum(state.extremes[0, part], seen.least, out=state.extremes[0, part])
        np.maximum(state.extremes[1, part], seen.largest, out=state.extremes[1, part])
        document = self._keys[window.document]
        for number, side in enumerate(seen.sides):
            state.rows_above[number, part] += side.rows_above
            best, drawn = side.best, side.drawn
            state.open_best[number].put(best.units + start, _entries(value_keys(best.value, document), best, window))
            state.open_drawn[number].put(drawn.units + start, _entries(window.keys[drawn.row], drawn, window))

    def close_document(self) -> None:
        """Move the open document's entries into the lists."""
        state = self.state
        if int(state.progress[3]) < 0:
            return
        for side in range(state.n_sides):
            state.top[side].offer(state.open_best[side])
            state.reservoir[side].offer(state.open_drawn[side])
            state.open_best[side].key[:] = 0
            state.open_drawn[side].key[:] = 0
        state.progress[2] += 1
        state.progress[3] = -1


def _entries(keys: UInt64[np.ndarray, " some"], chosen: Chosen, window: _WindowRows) -> Entries:
    dst = window.dst[chosen.row].astype(np.int32)
    return Entries(keys, chosen.value, np.full(len(keys), window.number, np.int32), dst)
