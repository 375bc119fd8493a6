"""What a head's writes are about, in words, as records that can stand beside its examples.

For each chosen row, of the head's output and of the difference that it makes (`head_vectors`):
1. the logit lens: the final norm's scale at that row is kept and logits are centred over the vocabulary
   (`model.Readout`, the product's one way to read writes; the library's own readout would norm a write as if it were
   the whole stream);
2. SelfIE for the first `max_rows` rows, with all its controls; mean and shuffled vectors come from the rows of other
   documents given as `reference`;
3. the entity lens where its vectors are given (`head_entities`).

The cost is bounded by the options (`cost_bound`) and told (`tokens`, `seconds`). Only readings with the verdict
`specific` may be shown to an explainer as evidence.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from autointerp.errors import BadInput, ModelError
from autointerp.lens_records import (
    EntityVectorReading,
    HeadReadings,
    HeadRowReading,
    HeadVectorReading,
    SelfieReading,
    StreamReading,
    What,
)
from autointerp.lenses.head_entities import HeadEntities
from autointerp.lenses.head_vectors import HeadRow, HeadVectors, head_source, head_vectors
from autointerp.lenses.selfie import Interpreter, SelfieOptions
from autointerp.lenses.selfie_records import SelfieRow
from autointerp.lenses.sources import Pool
from autointerp.model import LanguageModel, Readout
from autointerp.records import Head, TokenValue

KINDS: tuple[What, ...] = ("output", "difference")
EVIDENCE = SelfieOptions(prompts=("thing", "describe", "next"), max_new_tokens=8, nulls=19)


@dataclass(frozen=True)
class HeadLensOptions:
    """`selfie` None: logit lens alone. `max_rows`: rows that SelfIE reads; `n_tokens`: tokens up and down."""

    selfie: SelfieOptions | None = EVIDENCE
    max_rows: int = 3
    kinds: tuple[What, ...] = KINDS
    n_tokens: int = 5
    batch_size: int = 16


@dataclass(frozen=True, eq=False)
class _Words:
    """What the lenses found, by kind of vector, SelfIE and the entity lens also by row."""

    lens: dict[What, Float[Tensor, "row d_vocab"]]
    said: dict[tuple[What, int], tuple[SelfieReading, ...]]
    named: dict[tuple[What, int], EntityVectorReading | None]
    streams: list[StreamReading | None]


class HeadReader:
    """Reads heads of one model; the final norm's gain and the prompts are found once."""

    def __init__(
        self, model: LanguageModel, options: HeadLensOptions | None = None, entities: HeadEntities | None = None
    ) -> None:
        self.model, self.options, self.entities = model, options or HeadLensOptions(), entities
        if self.options.max_rows < 0 or not self.options.kinds:
            raise BadInput(f"max_rows is {self.options.max_rows} and {len(self.options.kinds)} kinds of vector are "
                           "asked for; give 0 or more rows and at least one kind.")  # fmt: skip
        selfie = self.options.selfie
        self.interpreter = None if selfie is None else Interpreter(model, selfie)
        self._readout: Readout | None = None
        self._refused = ""

    def read(
        self,
        head: Head,
        rows: Sequence[HeadRow],
        reference: Sequence[HeadRow] = (),
        z_mean: Float[np.ndarray, " d_head"] | None = None,
    ) -> HeadReadings:
        """Read rows of a head; `reference`: further rows of it, for controls, from other documents.

        Raises BadInput for a head or row that the model does not have.
        """
        started = time.monotonic()
        before = self._fed
        every = [*rows, *reference]
        if not rows:
            return HeadReadings(head=head, rows=(), tokens=0, seconds=0.0)
        vectors = head_vectors(self.model, head, every, z_mean, self.options.batch_size)
        said, notes = self._said(head, every, len(rows), vectors)
        named = self._named(head, every, len(rows), vectors)
        streams = [] if self.entities is None else self.entities.read_streams(vectors, len(rows))
        words = _Words(self._lens(every, vectors), said, named, streams)
        found = tuple(self._row(n, row, vectors, words) for n, row in enumerate(rows))
        spent = 3 * sum(row.dst + 1 for row in every) + self._fed - before
        told = (*([self._refused] if self._refused else []), *notes)
        return HeadReadings(head=head, rows=found, tokens=spent, seconds=time.monotonic() - started, notes=told)

    def _row(self, n: int, row: HeadRow, vectors: HeadVectors, words: _Words) -> HeadRowReading:
        readings = []
        for what in self.options.kinds:
            up, down = self._extremes(words.lens[what][n]) if what in words.lens else ((), ())
            norm, place = _six(float(vectors.of(what)[n].norm())), (what, n)
            said, named = words.said.get(place, ()), words.named.get(place)
            readings.append(HeadVectorReading(what=what, norm=norm, up=up, down=down, selfie=said, entity=named))
        return HeadRowReading(
            doc_id=row.doc_id, window=row.window, dst=row.dst, stratum=row.stratum, vectors=tuple(readings),
            stream=words.streams[n] if words.streams else None,
        )  # fmt: skip

    @property
    def _fed(self) -> int:
        lenses = (self.interpreter, self.entities)
        return sum(lens.tokens_fed for lens in lenses if lens is not None)

    def _named(
        self, head: Head, rows: Sequence[HeadRow], n_rows: int, vectors: HeadVectors
    ) -> dict[tuple[What, int], EntityVectorReading | None]:
        if self.entities is None:
            return {}
        documents = [row.doc_id for row in rows]
        return {
            (what, place): reading
            for what in self.options.kinds
            for place, reading in enumerate(self.entities.read(head, what, vectors.of(what), documents, n_rows))
        }

    def fit_readout(self, ids: Int[np.ndarray, "row pos"]) -> None:
        """Find the final norm's gain on these rows; else it is found on the first rows that are read, and the last
        digits of what is read depend on which these are."""
        try:
            self._readout = Readout.of(self.model, self.model.to_ids(ids))
        except ModelError as error:
            self._refused = str(error)

    def _lens(self, rows: Sequence[HeadRow], vectors: HeadVectors) -> dict[What, Float[Tensor, "row d_vocab"]]:
        """Centred logits of the vectors; nothing where the model's writes cannot be read so."""
        if self._readout is None and not self._refused:
            self.fit_readout(np.array([_longest(rows)]))
        if self._readout is None:
            return {}
        scale = self._readout.scale(vectors.final.to(self.model.device))
        return {
            what: self._readout.logits(vectors.of(what).to(self.model.device), scale).cpu()
            for what in self.options.kinds
        }

    def _extremes(self, logits: Float[Tensor, " d_vocab"]) -> tuple[tuple[TokenValue, ...], tuple[TokenValue, ...]]:
        k = min(self.options.n_tokens, len(logits))
        up, down = torch.topk(logits, k), torch.topk(-logits, k)
        return self._values(up.indices, up.values), self._values(down.indices, -down.values)

    def _values(self, ids: Tensor, values: Tensor) -> tuple[TokenValue, ...]:
        pairs = zip(ids.tolist(), values.tolist(), strict=True)
        return tuple(TokenValue(token=self.model.strings[i], value=_six(v)) for i, v in pairs)

    def _said(
        self, head: Head, rows: Sequence[HeadRow], n_rows: int, vectors: HeadVectors
    ) -> tuple[dict[tuple[What, int], tuple[SelfieReading, ...]], list[str]]:
        n = min(self.options.max_rows, n_rows)
        if self.interpreter is None or n == 0:
            return {}, []
        if len({row.doc_id for row in rows}) < 2:
            return {}, ["SelfIE was not run: its controls need rows of at least 2 documents"]
        found: dict[tuple[What, int], tuple[SelfieReading, ...]] = {}
        notes: list[str] = []
        for what in self.options.kinds:
            own = vectors.of(what)
            usable = [place for place in range(n) if float(own[place].norm()) > 0]
            if len(usable) < n:
                notes.append(f"{n - len(usable)} rows have no {what} to read")
            sources = [head_source(self.model, head, rows[place], what, own[place]) for place in usable]
            every = [head_source(self.model, head, row, what, vector) for row, vector in zip(rows, own, strict=True)]
            live = [one for one in every if float(one.vector.norm()) > 0]
            if not usable or len({one.source_document for one in live}) < 2:
                continue
            pool = Pool(torch.stack([one.vector for one in live]), tuple(one.source_document for one in live),
                        tuple(one.token for one in live))  # fmt: skip
            readings = self.interpreter.interpret(sources, pool)
            for number, place in enumerate(usable):
                size = len(self.interpreter.prompts)
                found[what, place] = tuple(map(_told, readings[number * size : (number + 1) * size]))
        return found, notes


def head_readings(
    model: LanguageModel,
    head: Head,
    rows: Sequence[HeadRow],
    reference: Sequence[HeadRow] = (),
    z_mean: Float[np.ndarray, " d_head"] | None = None,
    options: HeadLensOptions | None = None,
) -> HeadReadings:
    """Readings of one head; for many heads keep a `HeadReader`. Raises as `HeadReader.read` does."""
    return HeadReader(model, options).read(head, rows, reference, z_mean)


def cost_bound(model: LanguageModel, options: HeadLensOptions, n_rows: int, length: int) -> int:
    """Most tokens that the model reads for one head with `n_rows` rows (reference included) of `length` tokens."""
    own = 3 * n_rows * length
    if options.selfie is None:
        return own
    interpreter = Interpreter(model, options.selfie)
    new, nulls, read = options.selfie.max_new_tokens, options.selfie.nulls, min(options.max_rows, n_rows)
    steps = 0
    for prompt in interpreter.prompts:
        size = len(prompt.ids) + new
        scored = (nulls + read) * 7 * size  # an answer, and its score under the vector and five controls
        answered = (1 + 4 * read) * size
        text = 2 * read * (len(prompt.prefix) + len(prompt.suffix) + length + new)
        steps += scored + answered + text
    if options.selfie.strength == "search":
        steps += 8 * 7 * (nulls + read) * (len(interpreter.prompts[0].ids) + new)
    return own + steps * len(options.kinds)


def _told(row: SelfieRow) -> SelfieReading:
    return SelfieReading(
        prompt=row.prompt_name, text=row.interpretation, total=_six(row.total), margin=_six(row.margin),
        null_p=_six(row.null_p), verdict=row.verdict,
        controls=tuple(control.model_copy(update={"total": _six(control.total)}) for control in row.controls),
    )  # fmt: skip


def _six(value: float) -> float:
    return float(f"{value:.6g}")


def _longest(rows: Sequence[HeadRow]) -> tuple[int, ...]:
    return max((row.ids for row in rows), key=len)
