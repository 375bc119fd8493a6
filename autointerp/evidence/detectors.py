"""Detectors of head types for all heads of a model, each against its null (attention_evidence section 6).

1. Data: repeated random tokens of the corpus's own vocabulary, windows of the explain split, generated delimiters,
   and the output circuit read from parameters.
2. Every detector is a set of cells of the pattern (or a set of source tokens), measured for all heads at once.
3. Null: randomly initialised twins on the same kind of rows and, for detectors of content, the model itself on the same
   rows in shuffled order. Positional detectors have no shuffled null: shuffling does not move positions.
4. `fires` and the order of labels: `detector_readings` and `labels_of`.

Not here: s_inhibition and decoy (circuit studies), cspa_fraction (one ablation a head).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from autointerp.errors import BadInput, ModelError
from autointerp.evidence.detector_classes import ClassMasks
from autointerp.evidence.detector_data import (
    PAIRS,
    DelimiterRows,
    TextRows,
    delimiter_pairs,
    delimiter_rows,
    ordinary_pool,
    repeat_length,
    repeated_rows,
    shuffled_rows,
)
from autointerp.evidence.detector_induction import copying_half, prefix_curve
from autointerp.evidence.detector_measure import (
    Measured,
    PerHead,
    TextPlan,
    measure_delimiters,
    measure_repeats,
    measure_text,
)
from autointerp.evidence.detector_output import (
    Vocabulary,
    measure_copying,
    measure_relations,
    measure_successor,
)
from autointerp.evidence.detector_report import Context, output_readings, repeat_readings, text_readings
from autointerp.evidence.detector_suppression import Sets, measure_suppression
from autointerp.model import LanguageModel, Readout, random_twin
from autointerp.predicate.tokens import TokenTable
from autointerp.records import Head, Reading

__all__ = [
    "DetectorInputs", "DetectorSpec", "TextRows", "labels_of", "ordinary_pool", "repeated_rows", "run_detectors",
]  # fmt: skip

LARGE = 20_000_000
CONTENT = ("duplicate_token", "induction")
LABEL_OF = {"anti_copying": "copy_suppression"}  # the label of its own name otherwise
POSITIONS = ("previous_token", "current_token", "fixed_offset", "local_context")
CLASS_NAMES, NEARLY_ALL = ("punctuation", "token_class"), 0.9
UNLABELLED = ("relation", "relation_suppression")


@dataclass(frozen=True)
class DetectorSpec:
    """How much is measured. `null_*`: rows of the random twins and of shuffled text, whose values hardly vary.

    `n_twins`: None = 2, or 1 where the model has 100 heads or more (the null is a maximum over heads).
    """

    seed: int = 0
    n_sequences: int = 50
    T: int = 50
    n_text: int = 96
    n_delimiters: int = 16
    n_prefix: int = 6
    n_effect: int = 12  # sequences for the copying half of induction
    n_suppression: int = 24  # windows, of at most 16 rows each
    null_sequences: int = 12
    null_text: int = 24
    n_twins: int | None = None

    @classmethod
    def sized(cls, model: LanguageModel, seed: int = 0) -> DetectorSpec:
        """The default, or fewer rows of everything but the repeats where forwards are dear (20 million weights)."""
        weights = sum(p.numel() for p in model.bridge.original_model.parameters())
        if weights < LARGE:
            return cls(seed)
        return cls(seed, n_text=40, n_prefix=4, n_effect=6, n_suppression=12, null_sequences=8, null_text=12)


@dataclass(frozen=True)
class DetectorInputs:
    """What the first pass hands over, all from the explain split.

    `text`: windows as fed, one a document. `pool`: ids that may be drawn (`ordinary_pool`). `expected_share`: the
    first pass's table of shares by position. `own_tokens`: up to 8 ids that each head attends to most.
    """

    text: TextRows
    pool: Int[np.ndarray, " token"]
    expected_share: Float[np.ndarray, "head row_bucket bucket"] | None = None
    own_tokens: Mapping[Head, Sequence[int]] = field(default_factory=dict)


def run_detectors(
    model: LanguageModel, inputs: DetectorInputs, spec: DetectorSpec | None = None
) -> dict[Head, tuple[Reading, ...]]:
    """All readings of all heads. The same inputs and seed give the same numbers.

    A detector whose data this vocabulary or context cannot give (no bracket among its tokens, a pool of fewer than 4
    ids) has NaN readings that do not fire. Raises BadInput without text.
    """
    spec = spec or DetectorSpec.sized(model)
    if not len(inputs.text.lengths) or inputs.text.ids.shape[1] < 2:
        raise BadInput(
            f"the detectors got {len(inputs.text.lengths)} windows of text; they need at least one of 2 ids or more. "
            "Use a longer corpus."
        )
    setting = _Setting(model, inputs, spec)
    real = setting.measure(model, full=True)
    null = [setting.shuffled(model, real)]
    n_twins = spec.n_twins if spec.n_twins is not None else 1 if len(setting.heads) >= 100 else 2
    for number in range(n_twins):
        null.append(setting.measure(random_twin(model, spec.seed + 1 + number), full=False))
    context = Context(setting.heads, spec.seed, setting.fixed(), real.more)
    found = [
        *repeat_readings(context, real.repeats, [n.repeats for n in null]),
        *text_readings(context, real.text, [n.text for n in null]),
        *output_readings(context, real.output, [n.output for n in null]),
    ]
    return {head: tuple(column[h] for column in found) for h, head in enumerate(setting.heads)}


def labels_of(readings: Sequence[Reading]) -> tuple[str, ...]:
    """Labels that fire, strongest first; empty where none does.

    What the head attends to comes first, by lift over uniform (the larger of its data), then what it writes, by lift
    over chance, then `first_token`: most heads rest there. A class label for punctuation is left to `punctuation`, and
    a position to the class that stands there (`_explained`).
    """
    best: dict[str, tuple[int, float]] = {}
    names = {r.name for r in readings if r.fires}
    for reading in readings:
        same = reading.name == "token_class" and reading.detail.get("class") == "punctuation" and "punctuation" in names
        if not reading.fires or same or reading.name in UNLABELLED or _explained(reading, readings):
            continue
        label = LABEL_OF.get(reading.name, reading.name)
        group = 2 if label == "first_token" else int(reading.data == "parameters")
        place = (group, -reading.lift_over_uniform)
        best[label] = min(best.get(label, place), place)
    return tuple(sorted(best, key=lambda label: (best[label], label)))


def _explained(reading: Reading, readings: Sequence[Reading]) -> bool:
    """Whether a position on text is only where a class of tokens tends to stand: nearly all attention is on the class,
    less than half of it at the position, and on random tokens the position does not fire."""
    if reading.name not in POSITIONS or reading.data != "text":
        return False
    fired = [r for r in readings if r.fires]
    anywhere = any(r.name == reading.name and r.data == "repeats" for r in fired)
    shares = [r.value for r in fired if r.name in CLASS_NAMES]
    return not anywhere and max(shares, default=0.0) >= NEARLY_ALL and reading.value < 0.5 * max(shares)


@dataclass
class _Run:
    """Everything measured on one model, by detector."""

    repeats: dict[str, Measured]
    text: dict[str, Measured]
    output: dict[str, Measured]
    sets: Sets = field(default_factory=list)
    more: dict[str, dict[str, PerHead]] = field(default_factory=dict)


class _Setting:
    """The rows on which a model, its shuffled copy and its twins are measured."""

    def __init__(self, model: LanguageModel, inputs: DetectorInputs, spec: DetectorSpec) -> None:
        self._inputs, self._spec, self._bos = inputs, spec, model.bos_id
        self.heads = [Head(layer=n, index=h) for n in range(model.n_layers) for h in range(model.n_heads)]
        self._table = TokenTable.from_strings(model.strings, model.special_ids)
        self._strings = model.strings
        self.text = inputs.text.some(spec.n_text)
        self.length = repeat_length(spec.T, model.n_ctx, len(inputs.pool), self._bos)
        self._n_ctx = model.n_ctx
        self.words = Vocabulary.of(model.strings, inputs.pool, self._table.flags["is_word"], self._bos)

    def fixed(self) -> dict[str, str | int | float]:
        return {"T": self.length, "variant": "after_bos" if self._bos is not None else "after_frequent_token",
                "tokens": self.words.chosen, "n_pairs": len(self.words.pairs),
                "lists": ", ".join(name for name, _ in self.words.lists)}  # fmt: skip

    @cached_property
    def repeats(self) -> Int[np.ndarray, "row pos"] | None:
        """Repeated rows, or None where the pool or the context is too small for four different tokens."""
        if self.length < 4:
            return None
        return repeated_rows(self._inputs.pool, self.length, self._spec.n_sequences, self._spec.seed, self._bos)

    @cached_property
    def delimiters(self) -> DelimiterRows | None:
        """Nested delimiters, or None where the text has no pair of signs that are single tokens."""
        pairs = delimiter_pairs(self._table, self._strings, self._inputs.pool)
        wanted = self._table.flags["is_word"]
        words = np.array([i for i in self._inputs.pool.tolist() if wanted[i]], dtype=np.int64)
        size = min(self._n_ctx, 64)
        if not pairs or len(words) < 8 or size < 16:
            return None
        generator = np.random.default_rng([self._spec.seed, 1])
        shape = (self._spec.n_delimiters, size)
        return delimiter_rows(pairs, words, shape, generator, self._bos, self._other_signs())

    def _other_signs(self) -> Int[np.ndarray, " token"]:
        """Punctuation of the pool that opens and closes nothing."""
        plain = self._table.flags["is_punctuation"]
        delimits = set("".join(PAIRS))
        found = [i for i in self._inputs.pool.tolist() if plain[i] and delimits.isdisjoint(self._strings[i])]
        return np.array(found, dtype=np.int64)

    def measure(self, model: LanguageModel, *, full: bool) -> _Run:
        """The model itself (`full`), or a random twin on fewer rows."""
        spec, inputs = self._spec, self._inputs
        text = self.text if full else self.text.some(spec.null_text)
        repeats, delimiters = self.repeats, self.delimiters
        if repeats is not None and not full:
            repeats = repeats[: spec.null_sequences]
        out = _Run({} if repeats is None else measure_repeats(model, repeats, self.length), {}, {})
        out.text = measure_text(model, self._plan(text, positional=full))
        if delimiters is not None:
            out.text |= measure_delimiters(model, delimiters if full else delimiters.some(spec.null_sequences))
        if full and repeats is not None:
            out.more["induction"] = prefix_curve(
                model, inputs.pool, spec.n_prefix, np.random.default_rng([spec.seed, 2])
            )
        self._output(model, out, full=full)
        return out

    def _output(self, model: LanguageModel, out: _Run, *, full: bool) -> None:
        """The output side, where the final norm can be read."""
        spec = self._spec
        try:
            readout = Readout.of(model, model.to_ids(self.text.some(4).ids))
        except ModelError:
            return
        if len(self.words.copied):
            out.output |= measure_copying(model, readout, self.words)
        out.output |= measure_relations(model, readout, self.words)
        out.output |= measure_successor(model, readout, self.words, spec.seed)
        if full and self.repeats is not None:
            half = copying_half(model, readout, self.repeats[: spec.n_effect], self.length)
            out.more["induction"]["copy_logit"] = half
        text = self.text.some(spec.n_suppression if full else spec.n_suppression // 3)
        with suppress(ModelError):  # an architecture that does not show its residual stream has no such reading
            out.text["copy_suppression"], out.sets = measure_suppression(model, readout, text)

    def shuffled(self, model: LanguageModel, real: _Run) -> _Run:
        """The content detectors with tokens in random order, at the cells of the real order."""
        spec = self._spec
        generator = np.random.default_rng([spec.seed, 3])
        out = _Run({}, {}, {})
        if self.repeats is not None:
            rows = self.repeats[: spec.null_sequences]
            fed = shuffled_rows(rows, np.full(len(rows), rows.shape[1]), generator, self._bos)
            out.repeats = measure_repeats(model, fed, self.length, CONTENT)
        text = self.text.some(spec.null_text)
        fed = shuffled_rows(text.ids, text.lengths, generator, self._bos)
        found = measure_text(model, self._plan(text, fed))
        out.text = {n: m for n, m in found.items() if n in (*CONTENT, "punctuation") or n.startswith("class/")}
        if self.delimiters is not None:
            some = self.delimiters.some(spec.null_sequences)
            fed = shuffled_rows(some.ids, np.full(len(some.ids), some.ids.shape[1]), generator, self._bos)
            out.text |= measure_delimiters(model, some, fed)
        if real.sets:
            self._shuffled_suppression(model, real, generator, out)
        return out

    def _shuffled_suppression(
        self, model: LanguageModel, real: _Run, generator: np.random.Generator, out: _Run
    ) -> None:
        text = self.text.some(self._spec.n_suppression)
        fed = shuffled_rows(text.ids, text.lengths, generator, self._bos)
        readout = Readout.of(model, model.to_ids(self.text.some(4).ids))
        out.text["copy_suppression"] = measure_suppression(model, readout, text, (fed, real.sets))[0]

    def _plan(
        self, text: TextRows, fed: Int[np.ndarray, "row pos"] | None = None, *, positional: bool = False
    ) -> TextPlan:
        classes = ClassMasks.of(text, self._table, self._inputs.own_tokens, self.heads)
        return TextPlan(text, classes, fed, self._inputs.expected_share if positional else None)
