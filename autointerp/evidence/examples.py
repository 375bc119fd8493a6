"""Second pass: the chosen rows read in full (attention_evidence section 5).

1. Only the windows of chosen rows run again; each chosen row's pattern, contributions and lifts are taken.
2. The write of the row's top source, and of the whole row, is read through the final norm with the frozen scale.
3. `effects.row_effects` adds what the next-token distribution loses without the head at that row.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from autointerp.evidence.effects import RowEffect
from autointerp.evidence.pairs import RowPairs, column_lift, position_lift, row_pairs, source_flags
from autointerp.evidence.rows import Masks, OutputGeometry, write_norms
from autointerp.evidence.selection import ChosenRow
from autointerp.model import LanguageModel, Layer, Readout
from autointerp.records import Example, Head, Source, TokenValue

MAX_SOURCES, MIN_SHARE, AROUND, N_TOKENS = 5, 0.05, 4, 5
NO_WRITE = 1e-6


@dataclass(frozen=True)
class Windows:
    """A corpus as arrays by window number; `doc` numbers the documents that `doc_ids` names."""

    ids: Int[np.ndarray, "window pos"]
    lengths: Int[np.ndarray, " window"]
    doc: Int[np.ndarray, " window"]
    window_in_doc: Int[np.ndarray, " window"]
    doc_ids: Sequence[str]


@dataclass(frozen=True)
class RowReading:
    """One chosen row as the model computed it; tensors are copies on the CPU."""

    pairs: RowPairs
    column_lift: Float[Tensor, " src"]
    position_lift: Float[Tensor, " src"]
    top_src: int
    ov_up: tuple[TokenValue, ...]
    ov_down: tuple[TokenValue, ...]
    write_up: tuple[TokenValue, ...]
    write_down: tuple[TokenValue, ...]
    write_logits_next: float
    source_logit: float  # what the top source's v W_O does to its own token, centred logits
    no_write: bool


Chosen = tuple[Head, ChosenRow]


class ExampleReader:
    """Reads chosen rows window by window."""

    def __init__(
        self,
        model: LanguageModel,
        windows: Windows,
        readout: Readout | None,
        expected_share: Float[np.ndarray, "head row_bucket bucket"],
    ) -> None:
        self._model, self._windows, self._readout = model, windows, readout
        self._expected = torch.as_tensor(expected_share)
        self._outputs = [OutputGeometry.of(model, n) for n in range(model.n_layers)]

    def read(self, chosen: Sequence[Chosen], batch_size: int) -> dict[Chosen, RowReading]:
        """All rows; each window runs once."""
        by_window: dict[int, list[Chosen]] = defaultdict(list)
        for item in chosen:
            by_window[item[1].window].append(item)
        numbers = sorted(by_window)
        found: dict[Chosen, RowReading] = {}
        for start in range(0, len(numbers), batch_size):
            part = numbers[start : start + batch_size]
            found |= self._read_windows(part, {n: by_window[n] for n in part})
        return found

    def _read_windows(self, numbers: list[int], wanted: dict[int, list[Chosen]]) -> dict[Chosen, RowReading]:
        ids = self._model.to_ids(self._windows.ids[numbers])
        lengths = torch.as_tensor(self._windows.lengths[numbers].astype(np.int64), device=ids.device)
        masks = Masks.of(ids, lengths, self._model.special_ids)
        raw: dict[Chosen, _RawRow] = {}

        def keep(layer: Layer) -> None:
            norms = write_norms(self._model, layer, self._outputs[layer.index])
            for row, number in enumerate(numbers):
                for item in wanted[number]:
                    if item[0].layer == layer.index:
                        raw[item] = self._raw(layer, row, item, norms, masks)

        with self._model.observing(list(range(self._model.n_layers)), keep):
            residual, _ = self._model.final_states(ids)
        items = list(raw)
        place = {number: row for row, number in enumerate(numbers)}
        at = torch.tensor([[place[c.window], c.dst] for _, c in items], device=ids.device).reshape(-1, 2)
        stream = residual[at[:, 0], at[:, 1]].float()
        return dict(zip(items, self._readings(items, [raw[i] for i in items], stream), strict=True))

    def _raw(self, layer: Layer, row: int, item: Chosen, norms: Tensor, masks: Masks) -> _RawRow:
        head, chosen = item
        dst = torch.tensor([chosen.dst], device=norms.device)
        pattern = layer.pattern[row, head.index].float()
        pairs = row_pairs(pattern[chosen.dst : chosen.dst + 1], norms[row, head.index], masks.allowed[row], dst)
        lift = position_lift(pairs.share, dst, self._expected[head.layer * self._model.n_heads + head.index])
        contribution = torch.where(pairs.allowed[0], pairs.contribution[0], -1.0)
        top = int(contribution.argmax())
        w_o = self._model.W_O(head.layer)[head.index]
        constant = self._model.expand_kv(self._outputs[head.layer].v_constant[None])[0, head.index]
        v = self._model.expand_kv(layer.v[row, top : top + 1].float())[0, head.index] - constant
        z = layer.z[row, chosen.dst, head.index].float() - constant * pattern[chosen.dst].sum()
        return _RawRow(pairs, column_lift(pattern, dst, masks.rows[row])[0], lift[0], top, v @ w_o, z @ w_o)

    def _readings(
        self, items: list[Chosen], raw: list[_RawRow], stream: Float[Tensor, "row d_model"]
    ) -> list[RowReading]:
        source, whole = self._logits(raw, stream)
        readings: list[RowReading] = []
        for i, ((_, chosen), r) in enumerate(zip(items, raw, strict=True)):
            ids, length = self._windows.ids[chosen.window], int(self._windows.lengths[chosen.window])
            next_id = int(ids[chosen.dst + 1]) if chosen.dst + 1 < length else None
            readings.append(
                RowReading(
                    r.pairs,
                    r.column_lift.cpu(),
                    r.position_lift.cpu(),
                    r.top_src,
                    *self._extremes(None if source is None else source[i]),
                    *self._extremes(None if whole is None else whole[i]),
                    float("nan") if next_id is None or whole is None else float(whole[i, next_id]),
                    float("nan") if source is None else float(source[i, int(ids[r.top_src])]),
                    bool(r.write.norm() < NO_WRITE * stream[i].norm()),
                )
            )
        return readings

    def _logits(
        self, raw: list[_RawRow], stream: Float[Tensor, "row d_model"]
    ) -> tuple[Float[Tensor, "row d_vocab"], Float[Tensor, "row d_vocab"]] | tuple[None, None]:
        """Centred logits of the top sources' `v W_O` and of the rows' whole writes; nothing without a readout."""
        if self._readout is None:
            return None, None
        scale = self._readout.scale(stream)
        source = self._readout.logits(torch.stack([r.source_write for r in raw]), scale)
        return source, self._readout.logits(torch.stack([r.write for r in raw]), scale)

    def _extremes(
        self, logits: Float[Tensor, " d_vocab"] | None
    ) -> tuple[tuple[TokenValue, ...], tuple[TokenValue, ...]]:
        if logits is None:
            return (), ()
        return extreme_tokens(logits, self._model.strings, N_TOKENS)

    def example(self, item: Chosen, reading: RowReading, effect: RowEffect) -> Example:
        """The frozen record of one row."""
        _, chosen = item
        ids = self._windows.ids[chosen.window]
        length = int(self._windows.lengths[chosen.window])
        tokens = tuple(self._model.strings[int(i)] for i in ids[:length])
        pairs = reading.pairs
        seen = slice(0, chosen.dst + 1)
        return Example(
            doc_id=self._windows.doc_ids[int(self._windows.doc[chosen.window])],
            window=int(self._windows.window_in_doc[chosen.window]),
            dst=chosen.dst,
            stratum=chosen.stratum,
            tier=chosen.tier,
            weight=chosen.weight,
            tokens=tokens,
            pattern=_rounded(pairs.attn[0, seen]),
            contribution_shares=_rounded(pairs.contribution_share[0, seen]),
            sources=self._sources(ids[:length], chosen.dst, reading, tokens),
            dst_token=tokens[chosen.dst],
            next_token=tokens[chosen.dst + 1] if chosen.dst + 1 < length else None,
            dst_bucket=_bucket(chosen.dst, self._windows.ids.shape[1]),
            sink_mass=_number(pairs.sink_mass),
            self_mass=_number(pairs.self_mass),
            entropy=_number(pairs.entropy),
            n_allowed=int(pairs.n_allowed[0]),
            activity=chosen.activity,
            activity_quantile=round(chosen.quantile, 4),
            ov_up=reading.ov_up,
            ov_down=reading.ov_down,
            write_up=reading.write_up,
            write_down=reading.write_down,
            dla_next=_six(reading.write_logits_next),
            abl_dlogp_next=_six(effect.dlogp_next),
            abl_kl=_six(effect.kl),
            flags=("no_write",) if reading.no_write else (),
        )

    def _sources(
        self, ids: Int[np.ndarray, " pos"], dst: int, reading: RowReading, tokens: tuple[str, ...]
    ) -> tuple[Source, ...]:
        share = reading.pairs.share[0].nan_to_num(0.0)
        ranked = torch.argsort(reading.pairs.contribution_share[0] * (share >= MIN_SHARE), descending=True, stable=True)
        chosen = [int(s) for s in ranked if share[s] >= MIN_SHARE][:MAX_SOURCES]
        return tuple(self._source(ids, dst, src, reading, tokens) for src in chosen)

    def _source(
        self, ids: Int[np.ndarray, " pos"], dst: int, src: int, reading: RowReading, tokens: tuple[str, ...]
    ) -> Source:
        pairs = reading.pairs
        flags = source_flags(ids.tolist(), dst, src, self._model.strings, self._model.special_ids)
        return Source(
            src=src,
            token=tokens[src],
            distance=dst - src,
            attn=_number(pairs.attn[:, src]),
            share=_number(pairs.share[:, src]),
            multiple=_number(pairs.multiple[:, src]),
            contribution=_number(pairs.contribution[:, src]),
            contribution_share=_number(pairs.contribution_share[:, src]),
            position_lift=_number(reading.position_lift[None, src]),
            column_lift=_number(reading.column_lift[None, src]),
            around=tokens[max(0, src - AROUND) : src + AROUND + 1],
            **vars(flags),
        )


@dataclass(frozen=True)
class _RawRow:
    pairs: RowPairs
    column_lift: Float[Tensor, " src"]
    position_lift: Float[Tensor, " src"]
    top_src: int
    source_write: Float[Tensor, " d_model"]
    write: Float[Tensor, " d_model"]


def extreme_tokens(
    logits: Float[Tensor, " d_vocab"], strings: Sequence[str], n: int
) -> tuple[tuple[TokenValue, ...], tuple[TokenValue, ...]]:
    """The `n` most raised and most lowered tokens of centred logits."""

    def named(largest: bool) -> tuple[TokenValue, ...]:  # noqa: FBT001
        values, ids = logits.topk(min(n, len(logits)), largest=largest)
        return tuple(TokenValue(token=strings[int(i)], value=_six(float(v))) for v, i in zip(values, ids, strict=True))

    return named(True), named(False)  # noqa: FBT003


def _bucket(dst: int, size: int) -> Literal["first 8", "early", "late"]:
    return "first 8" if dst < 8 else "early" if dst < size // 2 else "late"


def _number(values: Tensor) -> float:
    return _six(float(values.reshape(-1)[0]))


def _six(value: float) -> float:
    return float(f"{value:.6g}")


def _rounded(values: Float[Tensor, " src"]) -> tuple[float, ...]:
    return tuple(round(float(v), 4) for v in values)
