"""Evidence for all heads: first pass, selection, second pass, detectors, put together as frozen records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64, Int

from autointerp.errors import ModelError
from autointerp.evidence.detectors import DetectorInputs, DetectorSpec, TextRows, ordinary_pool, run_detectors
from autointerp.evidence.effects import RowPlace, row_effects
from autointerp.evidence.examples import Chosen, ExampleReader, RowReading, Windows, extreme_tokens
from autointerp.evidence.first_pass import Batch, FirstPass, PassSpec, run_first_pass
from autointerp.evidence.hashing import document_keys
from autointerp.evidence.selection import WindowTable, select_rows
from autointerp.evidence.statistics import head_stats
from autointerp.model import LanguageModel
from autointerp.model import Readout as LogitReadout
from autointerp.records import Evidence, Example, Head, Reading, Readout

DETECTOR_WINDOWS, OWN_TOKENS = 96, 8
Progress = Callable[[str, int, int], None]  # stage, done, of


@dataclass(frozen=True)
class ExplainWindows:
    """The explain split of a corpus: its arrays (memory-mapped, by window number) and the numbers of the split."""

    windows: Windows
    numbers: Int[np.ndarray, " window"]
    cluster: Int[np.ndarray, " all_windows"]  # near-duplicate cluster of each window's document
    context: int

    def batches(self, batch_size: int) -> Callable[[int], Iterator[Batch]]:
        """Batches from a given place in the split on."""

        def start_at(first: int) -> Iterator[Batch]:
            for start in range(first, len(self.numbers), batch_size):
                part = self.numbers[start : start + batch_size]
                windows = self.windows
                yield _Batch(np.asarray(windows.ids[part]), windows.lengths[part], windows.doc[part], part)

        return start_at

    def token_ids(self) -> Int[np.ndarray, " token"]:
        """Distinct ids of the split, ascending."""
        found: set[int] = set()
        positions = np.arange(self.context)
        for start in range(0, len(self.numbers), 4096):
            part = self.numbers[start : start + 4096]
            ids = np.asarray(self.windows.ids[part])
            found |= set(np.unique(ids[positions < self.windows.lengths[part][:, None]]).tolist())
        return np.array(sorted(found), dtype=np.int64)


@dataclass(frozen=True)
class _Batch:
    ids: np.ndarray
    lengths: np.ndarray
    doc: np.ndarray
    windows: np.ndarray


@dataclass(frozen=True)
class CollectSpec:
    """Settings of a collection that change its result, and how to run it."""

    seed: int
    batch_size: int = 8
    checkpoint: Path | None = None


@dataclass(frozen=True)
class Collected:
    """Evidence of the wanted heads, and what scoring needs from the explain split."""

    evidence: dict[Head, Evidence]
    z_mean: Float64[np.ndarray, "layer head d_head"]
    pool: np.ndarray  # ordinary ids for repeated random tokens


def collect(
    model: LanguageModel, explain: ExplainWindows, heads: Sequence[Head], spec: CollectSpec, progress: Progress
) -> Collected:
    """Collect evidence on the explain split for `heads` (statistics are taken for all)."""
    batches = explain.batches(spec.batch_size)
    pass_spec = PassSpec(
        batches,
        document_keys(explain.windows.doc_ids),
        np.asarray(explain.windows.window_in_doc),
        explain.token_ids(),
        explain.context,
        spec.seed,
    )
    n_windows = len(explain.numbers)
    state = run_first_pass(
        model, pass_spec, spec.checkpoint, progress=lambda done: progress("reading attention", done, n_windows)
    )
    stats = head_stats(state, pass_spec, model.strings)
    z_mean = state.z_mean().reshape(model.n_layers, model.n_heads, -1)
    pool = ordinary_pool(model.strings, model.special_ids, pass_spec.token_ids, state.token_counts)
    progress("detectors", 0, 1)
    readings = _detect(model, explain, state, pass_spec, pool)
    progress("detectors", 1, 1)
    examples = _Examples(model, explain, state, z_mean, spec.batch_size).of(heads, progress)
    evidence = {
        head: Evidence(
            head=head,
            stats=stats[head.layer * model.n_heads + head.index],
            readings=readings[head],
            readout=examples[head].readout,
            examples=examples[head].examples,
            notes=examples[head].notes,
        )
        for head in heads
    }
    return Collected(evidence, z_mean, pool)


def _detect(
    model: LanguageModel, explain: ExplainWindows, state: FirstPass, spec: PassSpec, pool: np.ndarray
) -> dict[Head, tuple[Reading, ...]]:
    numbers = explain.numbers[first_windows(explain.cluster[explain.numbers], DETECTOR_WINDOWS)]
    rows = TextRows(np.asarray(explain.windows.ids[numbers]), np.asarray(explain.windows.lengths[numbers]))
    best = np.argsort(-state.source_totals, axis=0, kind="stable")[:OWN_TOKENS]
    own = {
        Head(layer=i // model.n_heads, index=i % model.n_heads): spec.token_ids[best[:, i]].tolist()
        for i in range(best.shape[1])
    }
    inputs = DetectorInputs(rows, pool, state.expected_share(), own)
    return run_detectors(model, inputs, DetectorSpec.sized(model, spec.seed))


def first_windows(documents: np.ndarray, limit: int) -> np.ndarray:
    """Window numbers, one a document first and then second ones, at most `limit`; ascending."""
    order = np.argsort(documents, kind="stable")
    ranks = np.empty(len(documents), np.int64)
    starts = np.r_[0, np.flatnonzero(np.diff(documents[order])) + 1] if len(documents) else np.zeros(0, np.int64)
    sizes = np.diff(np.r_[starts, len(documents)])
    ranks[order] = np.arange(len(documents)) - np.repeat(starts, sizes)
    return np.sort(np.argsort(ranks, kind="stable")[:limit])


@dataclass(frozen=True)
class _HeadExamples:
    examples: tuple[Example, ...]
    readout: Readout
    notes: tuple[str, ...]


class _Examples:
    """Second pass for the wanted heads, a bounded number of heads at a time."""

    def __init__(
        self,
        model: LanguageModel,
        explain: ExplainWindows,
        state: FirstPass,
        z_mean: Float64[np.ndarray, "layer head d_head"],
        batch_size: int,
    ) -> None:
        self._model, self._explain, self._state = model, explain, state
        self._z_mean, self._batch_size = z_mean, batch_size
        sample = model.to_ids(np.asarray(explain.windows.ids[explain.numbers[:8]]))
        self._unreadable: tuple[str, ...] = ()
        readout = None
        try:
            readout = LogitReadout.of(model, sample)
        except ModelError as error:
            self._unreadable = (f"what is written is not available: {error}",)
        self._reader = ExampleReader(model, explain.windows, readout, state.expected_share())
        self._table = WindowTable(explain.windows.ids, np.asarray(explain.cluster))

    def of(self, heads: Sequence[Head], progress: Progress) -> dict[Head, _HeadExamples]:
        found: dict[Head, _HeadExamples] = {}
        step = max(self._model.n_heads, 32)
        for start in range(0, len(heads), step):
            found |= self._some(heads[start : start + step])
            progress("reading examples", min(start + step, len(heads)), len(heads))
        return found

    def _some(self, heads: Sequence[Head]) -> dict[Head, _HeadExamples]:
        chosen: list[Chosen] = []
        notes: dict[Head, tuple[str, ...]] = {}
        for head in heads:
            rows, missing = select_rows(self._state, head.layer * self._model.n_heads + head.index, self._table)
            chosen += [(head, row) for row in rows]
            notes[head] = (*missing, *self._unreadable)
        readings = self._reader.read(chosen, self._batch_size)
        effects = row_effects(self._model, [self._place(item) for item in chosen], self._z_mean, 2 * self._batch_size)
        examples = [self._reader.example(i, readings[i], e) for i, e in zip(chosen, effects, strict=True)]
        return {
            head: _HeadExamples(
                tuple(e for e, (h, _) in zip(examples, chosen, strict=True) if h == head),
                self._readout(head, {i: r for i, r in readings.items() if i[0] == head}),
                notes[head],
            )
            for head in heads
        }

    def _place(self, item: Chosen) -> RowPlace:
        head, row = item
        ids = self._explain.windows.ids[row.window]
        length = int(self._explain.windows.lengths[row.window])
        following = int(ids[row.dst + 1]) if row.dst + 1 < length else None
        return RowPlace(head, tuple(int(i) for i in ids[: row.dst + 1]), following)

    def _readout(self, head: Head, readings: dict[Chosen, RowReading]) -> Readout:
        """Over the head's top and quantile rows: tokens most raised and lowered, and the effect on the source."""
        active = [(i, r) for i, r in readings.items() if i[1].stratum in ("top", "quantile")]
        source = np.array([r.source_logit for _, r in active if not np.isnan(r.source_logit)])
        totals: dict[str, float] = {}
        for _, reading in active:
            for value in (*reading.write_up, *reading.write_down):
                totals[value.token] = totals.get(value.token, 0.0) + value.value / len(active)
        names = sorted(totals, key=lambda token: (-totals[token], token))
        logits = torch.tensor([totals[name] for name in names])
        up, down = extreme_tokens(logits, names, 10) if names else ((), ())
        low, high = _mean_interval(source)
        return Readout(
            up=tuple(t for t in up if t.value > 0),
            down=tuple(t for t in down if t.value < 0),
            copies_source=float(source.mean()) if len(source) else float("nan"),
            copies_source_low=low,
            copies_source_high=high,
            n=len(source),
        )


def _mean_interval(values: np.ndarray) -> tuple[float, float]:
    """Percentile bootstrap of a mean over rows, each from its own document."""
    if len(values) < 2:
        return float("nan"), float("nan")
    draws = np.random.default_rng(0).integers(0, len(values), (1000, len(values)))
    low, high = np.quantile(values[draws].mean(1), [0.025, 0.975])
    return float(low), float(high)
