"""Readings of every detector from what was measured on the model and on its nulls.

`fixed_offset` and `token_class` report the best of several (offset, class) for each head; their null is the best of the
same several on the null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autointerp.evidence.detector_classes import CLASSES
from autointerp.evidence.detector_measure import Measured, PerHead
from autointerp.evidence.detector_readings import (
    CLASS_LIFT,
    Data,
    Kind,
    class_gate,
    highest,
    readings,
    row_mean,
)
from autointerp.evidence.detector_targets import OFFSETS
from autointerp.records import Head, Reading

Found = Mapping[str, Measured]
Columns = list[list[Reading]]  # one list of readings (a head each) per detector
_REPEATS = ("previous_token", "current_token", "first_token", "duplicate_token", "induction")
_OUTPUT = ("copying", "anti_copying", "successor", "relation", "relation_suppression")


@dataclass(frozen=True)
class Context:
    """What all readings share: heads in order, seed, the settings that go into details, further numbers."""

    heads: Sequence[Head]
    seed: int
    fixed: Mapping[str, str | int | float]
    more: Mapping[str, Mapping[str, PerHead]]

    def chosen(self, *names: str) -> dict[str, str | int | float]:
        return {name: self.fixed[name] for name in names}


def repeat_readings(context: Context, real: Found, null: Sequence[Found]) -> Columns:
    """Detectors on repeated random tokens."""
    fixed = context.chosen("T")
    out = [_plain(context, Kind(name, "repeats", fixed, context.more.get(name, {})), real, null) for name in _REPEATS]
    return [*out, _offsets(context, "repeats", real, null)]


def text_readings(context: Context, real: Found, null: Sequence[Found]) -> Columns:
    """Detectors on real text, and on generated delimiters."""
    names = (*_REPEATS, "local_context")
    out = [_plain(context, Kind(name, "text", {}, _last(real, name)), real, null) for name in names]
    out += [_offsets(context, "text", real, null), _punctuation(context, real, null)]
    generated = Kind("delimiter_matching", "text", {"data": "generated brackets and quotations"})
    suppression = real.get("copy_suppression")
    gate = None if suppression is None else row_mean(suppression.more["singled_out"]) > 0.5
    out += [
        _plain(context, generated, real, null),
        _plain(context, Kind("copy_suppression", "text", gate=gate), real, null),
    ]
    return [*out, _classes(context, real, null)]


def output_readings(context: Context, real: Found, null: Sequence[Found]) -> Columns:
    """Detectors of the output circuit."""
    details = {"copying": ("tokens",), "anti_copying": ("tokens",), "successor": ("lists",)}
    return [
        _plain(
            context,
            Kind(name, "parameters", context.chosen("variant", *details.get(name, ("n_pairs",)))),
            real,
            null,
        )
        for name in _OUTPUT
    ]


def _plain(context: Context, kind: Kind, real: Found, null: Sequence[Found]) -> list[Reading]:
    n_heads = len(context.heads)
    if kind.name not in real:
        return _missing(kind, n_heads)
    top = highest([row_mean(n[kind.name].value) for n in null if kind.name in n], n_heads)
    return readings(kind, real[kind.name], top, context.seed)


def _missing(kind: Kind, n_heads: int) -> list[Reading]:
    nothing = np.full((1, n_heads), np.nan)
    return readings(Kind(kind.name, kind.data, kind.fixed), Measured(nothing, nothing, {}), nothing[0], 0)


def _offsets(context: Context, data: Data, real: Found, null: Sequence[Found]) -> list[Reading]:
    names = [f"offset_{k}" for k in OFFSETS if f"offset_{k}" in real]
    if not names:
        return _missing(Kind("fixed_offset", data), len(context.heads))
    top = highest([row_mean(n[name].value) for n in null for name in names if name in n], len(context.heads))
    best = _best([row_mean(real[name].value) for name in names])
    offset = np.array([float(name.removeprefix("offset_")) for name in names])[best]
    kind = Kind("fixed_offset", data, {}, {"offset": offset})
    return readings(kind, _pick([real[name] for name in names], best), top, context.seed)


def _best(values: Sequence[PerHead]) -> np.ndarray:
    return np.asarray(np.nan_to_num(np.stack(values), nan=-np.inf).argmax(0))


def _pick(measured: Sequence[Measured], best: np.ndarray) -> Measured:
    """For each head, the columns of its own best."""
    heads = np.arange(len(best))
    value, uniform = (np.stack([getattr(m, part) for m in measured])[best, :, heads].T for part in ("value", "uniform"))
    more = {n: np.stack([m.more[n] for m in measured])[best, :, heads].T for n in measured[0].more}
    return Measured(value, uniform, more)


def _punctuation(context: Context, real: Found, null: Sequence[Found]) -> list[Reading]:
    found = real["punctuation"]
    value, uniform, expected = (row_mean(x) for x in (found.value, found.uniform, found.more["expected"]))
    kind = Kind("punctuation", "text", {}, _lift(value, expected), class_gate(value, uniform, expected), CLASS_LIFT)
    return _plain(context, kind, real, null)


def _last(real: Found, name: str) -> dict[str, PerHead]:
    """The part of a content detector's value that lies on the last of its sources."""
    return {"nearest": row_mean(real[f"{name}/last"].value)} if f"{name}/last" in real else {}


def _lift(value: PerHead, expected: PerHead) -> dict[str, PerHead]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return {"position_lift": np.where(expected > 0, value / expected, np.nan)}


def _classes(context: Context, real: Found, null: Sequence[Found]) -> list[Reading]:
    """The class that takes most of each head's attention beyond what its positions would give."""
    parts = [real[f"class/{name}"] for name in CLASSES]
    values, expected = (
        [row_mean(x) for x in xs] for xs in ([p.value for p in parts], [p.more["expected"] for p in parts])
    )
    best = _best([v - e for v, e in zip(values, expected, strict=True)])
    nulls = np.stack([_class_null(context, null, name) for name in CLASSES])
    heads = np.arange(len(best))
    picked = _pick(parts, best)
    value, uniform, positional = (row_mean(x) for x in (picked.value, picked.uniform, picked.more["expected"]))
    kind = Kind(
        "token_class",
        "text",
        {},
        _lift(value, positional) | {"share": value, "available": uniform},
        class_gate(value, uniform, positional),
        CLASS_LIFT,
    )
    found = readings(kind, picked, nulls[best, heads], context.seed)
    return [
        r.model_copy(update={"detail": {"class": CLASSES[b], **r.detail}}) for r, b in zip(found, best, strict=True)
    ]


def _class_null(context: Context, null: Sequence[Found], name: str) -> PerHead:
    """Highest null value of a class; of a head's own tokens, which no other head shares, the head's own null."""
    n_heads = len(context.heads)
    values = [row_mean(n[f"class/{name}"].value) for n in null if f"class/{name}" in n]
    if name != "own" or not values:
        return highest(values, n_heads)
    return np.asarray(np.fmax.reduce(np.stack(values)))
