"""First pass over the explain split: statistics of all heads, row reservoirs, candidates, mean z.

1. Every batch of windows runs once through the base model; each layer's pattern is read in the hook and dropped.
2. Row quantities are summed by window, windows by document; a closed document enters the means and the bootstrap.
3. Rows enter hash-ordered reservoirs; each document's most active row enters the top lists.
4. Source and destination tokens collect the head's contribution.
5. Every `checkpoint_seconds` the state is written, so that a killed run goes on from there.

Memory is bounded by heads, buckets and distinct tokens of the corpus, not by its length. It does not keep patterns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float64, Int, UInt64

from autointerp.evidence.accumulate import ROW_VALUES, STATISTICS, Arrays, DocumentMeans, Reservoir, TopRows
from autointerp.evidence.buckets import n_buckets
from autointerp.evidence.hashing import row_hashes
from autointerp.evidence.rows import TAU, Geometry, LayerRows, Masks, OutputGeometry, read_rows, write_norms
from autointerp.model import LanguageModel, Layer


class Batch(Protocol):
    """Windows to run: padded ids, lengths, document ordinals, window numbers."""

    @property
    def ids(self) -> Int[np.ndarray, "batch pos"]: ...
    @property
    def lengths(self) -> Int[np.ndarray, " batch"]: ...
    @property
    def doc(self) -> Int[np.ndarray, " batch"]: ...
    @property
    def windows(self) -> Int[np.ndarray, " batch"]: ...


@dataclass(frozen=True)
class PassSpec:
    """What a first pass is made over: how to get batches, and the constants of the corpus."""

    batches: Callable[[int], Iterator[Batch]]  # from this window on (position in the split's list)
    document_keys: UInt64[np.ndarray, " doc"]
    window_in_doc: Int[np.ndarray, " window"]
    token_ids: Int[np.ndarray, " token"]  # distinct ids of the split, ascending
    context: int
    seed: int


@dataclass
class OpenDocument:
    """Sums over the windows of the document being read."""

    ordinal: int
    sums: Float64[np.ndarray, "statistic head"]
    counts: Float64[np.ndarray, "statistic head"]
    shares: Float64[np.ndarray, "head row_bucket bucket"]
    pairs: Float64[np.ndarray, "head row_bucket bucket"]
    best: Arrays


@dataclass
class FirstPass:
    """State and result of the first pass; axis `head` runs over all heads, layer by layer."""

    means: DocumentMeans
    reservoir: Reservoir
    top: TopRows
    source_totals: Float64[np.ndarray, "token head"]
    destination_totals: Float64[np.ndarray, "token head"]
    token_counts: Float64[np.ndarray, " token"]
    share_sums: Float64[np.ndarray, "head row_bucket bucket"]
    share_documents: Float64[np.ndarray, "head row_bucket bucket"]
    histogram: Float64[np.ndarray, "head bucket"]
    histogram_documents: Float64[np.ndarray, " head"]
    z_sum: Float64[np.ndarray, "head d_head"]
    progress: Int[np.ndarray, " 3"]  # windows read, rows read, documents closed
    open_document: OpenDocument | None = field(default=None)

    @classmethod
    def empty(cls, n_heads: int, d_head: int, spec: PassSpec) -> FirstPass:
        buckets = n_buckets(spec.context)
        cells = (n_heads, buckets, buckets)
        totals = (len(spec.token_ids), n_heads)
        return cls(
            DocumentMeans.empty(n_heads, spec.seed),
            Reservoir(n_heads),
            TopRows(n_heads),
            np.full(totals, 0.0),  # filled, not calloc'd: pages are paid for now, so that memory does not grow later
            np.full(totals, 0.0),
            np.zeros(len(spec.token_ids)),
            np.zeros(cells),
            np.zeros(cells),
            np.zeros((n_heads, buckets)),
            np.zeros(n_heads),
            np.zeros((n_heads, d_head)),
            np.zeros(3, np.int64),
        )

    def z_mean(self) -> Float64[np.ndarray, "head d_head"]:
        """Mean of z over all rows (position 0 excluded)."""
        return self.z_sum / max(int(self.progress[1]), 1)

    def expected_share(self) -> Float64[np.ndarray, "head row_bucket bucket"]:
        """E[share | row-length bucket, distance bucket], every document with equal weight; NaN where none is."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.share_documents > 0, self.share_sums / self.share_documents, np.nan)


def run_first_pass(
    model: LanguageModel,
    spec: PassSpec,
    checkpoint: Path | None = None,
    *,
    every: float = 20.0,
    progress: Callable[[int], None] | None = None,
) -> FirstPass:
    """Read the whole split (or the rest of it, where `checkpoint` holds a state of the same split)."""
    from autointerp.evidence.checkpoint import load_state, save_state

    n_heads = model.n_layers * model.n_heads
    state = FirstPass.empty(n_heads, int(model.W_O(0).shape[1]), spec)
    if checkpoint is not None and checkpoint.exists():
        load_state(state, checkpoint)
    reader = FirstPassReader(model, spec, state)
    saved = time.monotonic()
    for batch in spec.batches(int(state.progress[0])):
        reader.read(batch)
        if progress is not None:
            progress(int(state.progress[0]))
        if checkpoint is not None and time.monotonic() - saved > every:
            save_state(state, checkpoint)
            saved = time.monotonic()
    reader.close_document()
    state.reservoir.compact()
    state.top.compact()
    return state


class FirstPassReader:
    """Runs batches and adds what they show to the state."""

    def __init__(self, model: LanguageModel, spec: PassSpec, state: FirstPass) -> None:
        self._model, self._spec, self._state = model, spec, state
        self._output = [OutputGeometry.of(model, n) for n in range(model.n_layers)]
        self._geometry = Geometry.of(spec.context, model.device)
        self._heads = np.array([(n, h) for n in range(model.n_layers) for h in range(model.n_heads)])

    def read(self, batch: Batch) -> None:
        ids = self._model.to_ids(batch.ids)
        lengths = torch.as_tensor(np.asarray(batch.lengths, dtype=np.int64), device=ids.device)
        masks = Masks.of(ids, lengths, self._model.special_ids)
        rows: list[LayerRows] = []
        z_sums: list[torch.Tensor] = []

        def keep(layer: Layer) -> None:
            norms = write_norms(self._model, layer, self._output[layer.index])
            rows.append(read_rows(layer.pattern, norms, masks, self._geometry))
            z_sums.append(torch.einsum("bshd,bs->bhd", layer.z.float(), masks.rows.float()))

        self._model.read_attention(ids, list(range(self._model.n_layers)), keep)
        self._add(batch, masks, rows)
        for window in range(len(batch.lengths)):  # one by one: the same sums whatever the batch size
            self._state.z_sum += torch.cat([z[window] for z in z_sums]).double().cpu().numpy()

    def _add(self, batch: Batch, masks: Masks, rows: list[LayerRows]) -> None:
        state, spec = self._state, self._spec
        there = masks.rows.cpu().numpy()
        values = _by_head(rows, there, masks.allowed.cumsum(1).cpu().numpy())
        hashes = row_hashes(
            spec.seed,
            spec.document_keys[batch.doc],
            spec.window_in_doc[batch.windows],
            self._heads,
            there.shape[1],
        )
        state.reservoir.add(hashes, there, batch.windows, [values[name] for name in ROW_VALUES])
        self._token_totals(batch, values, there)
        self._documents(batch, values, rows)
        state.progress += np.array([len(batch.lengths), int(there.sum()), 0])

    def _token_totals(self, batch: Batch, values: Arrays, there: np.ndarray) -> None:
        state = self._state
        index = np.searchsorted(self._spec.token_ids, batch.ids[there])
        for name, totals in (("source_totals", state.source_totals), ("activity", state.destination_totals)):
            added = torch.from_numpy(np.ascontiguousarray(values[name][:, there].T, dtype=np.float64))
            torch.from_numpy(totals).index_add_(0, torch.from_numpy(index), added)
        state.token_counts += np.bincount(index, minlength=len(state.token_counts))

    def _documents(self, batch: Batch, values: Arrays, rows: list[LayerRows]) -> None:
        sums = np.stack([np.nansum(values[n], axis=-1, dtype=np.float64) for n in STATISTICS])
        counts = np.stack([(~np.isnan(values[n])).sum(-1) for n in STATISTICS])
        shares = np.concatenate([r.share_sums.cpu().numpy() for r in rows], axis=1).astype(np.float64)
        pairs = np.concatenate([r.share_pairs.cpu().numpy() for r in rows], axis=1).astype(np.float64)
        best_dst = np.concatenate([r.best_dst.cpu().numpy() for r in rows], axis=1)
        best_src = np.concatenate([r.top_src.cpu().numpy() for r in rows], axis=1)
        for i, doc in enumerate(batch.doc):
            best = {
                "activity": np.take_along_axis(values["activity"][:, i], best_dst[i][:, None], 1)[:, 0],
                "document": np.full(len(self._heads), self._spec.document_keys[doc], np.uint64),
                "window": np.full(len(self._heads), batch.windows[i], np.int32),
                "dst": best_dst[i].astype(np.int16),
                "src": best_src[i].astype(np.int16),
            }
            part = OpenDocument(int(doc), sums[:, :, i], counts[:, :, i].astype(np.float64), shares[i], pairs[i], best)
            self._add_window(part)

    def _add_window(self, part: OpenDocument) -> None:
        current = self._state.open_document
        if current is None or current.ordinal != part.ordinal:
            self.close_document()
            self._state.open_document = part
            return
        better = part.best["activity"] > current.best["activity"]
        best = {n: np.where(better, part.best[n], old) for n, old in current.best.items()}
        self._state.open_document = OpenDocument(
            part.ordinal,
            current.sums + part.sums,
            current.counts + part.counts,
            current.shares + part.shares,
            current.pairs + part.pairs,
            best,
        )

    def close_document(self) -> None:
        """Move the open document's sums into the means."""
        state, document = self._state, self._state.open_document
        if document is None:
            return
        with np.errstate(invalid="ignore", divide="ignore"):
            means = np.where(document.counts > 0, document.sums / document.counts, np.nan)
            shares = np.where(document.pairs > 0, document.shares / document.pairs, 0.0)
        state.means.add(self._spec.document_keys[document.ordinal], means)
        state.share_sums += shares
        state.share_documents += document.pairs > 0
        rows = document.counts[STATISTICS.index("max_share")]
        state.histogram += np.where(rows > 0, 1 / np.maximum(rows, 1), 0.0)[:, None] * document.shares.sum(1)
        state.histogram_documents += rows > 0
        state.top.add(document.best)
        state.progress[2] += 1
        state.open_document = None


def _by_head(rows: Sequence[LayerRows], there: np.ndarray, n_allowed: np.ndarray) -> Arrays:
    """Row quantities as `[head batch dst]`, NaN where a row does not exist; `n_allowed [batch dst]` sources."""
    names = ("mass", "sink_mass", "self_mass", "prev_mass", "max_share", "mean_distance", "activity", "source_totals")
    values = {n: torch.cat([getattr(r, n).transpose(0, 1) for r in rows]).float().cpu().numpy() for n in names}
    values["entropy_nats"] = torch.cat([r.entropy.transpose(0, 1) for r in rows]).cpu().numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = np.where(n_allowed >= 2, np.log(n_allowed, dtype=np.float32), np.nan)
        values["entropy"] = values["entropy_nats"] / scale
    values["low_mass"] = (values["mass"] < TAU).astype(np.float32)
    for name in ("sink_mass", "self_mass", "prev_mass", "low_mass"):
        values[name] = np.where(there[None], values[name], np.nan)
    return values
