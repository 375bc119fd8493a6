"""What the lenses say of each head's writes, taken once, kept in the run folder and put beside the examples.

1. Before anything is collected it is settled which lenses are used (`plan_lenses`): the logit lens always; the entity
   lens where vectors for the model exist; SelfIE where it is asked for; none where that is asked for.
2. For each head at most `TOP` rows where it does most and `RANDOM` random ones are read, SelfIE the first `SELFIE_ROWS`
   of them; at most `REFERENCE` more rows serve as controls. That bounds the cost, which is told beforehand.
3. Each head is on disk when it is read: a run that goes on reads no head twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

import numpy as np

from autointerp.config import LENSES, NO_LENSES, RunConfig, check_lenses, chosen_lenses
from autointerp.errors import BadInput
from autointerp.evidence.collect import Collected, Progress
from autointerp.lens_records import HeadReadings
from autointerp.lenses.entity_checkpoint import EntityVectors, find_vectors, load_vectors
from autointerp.lenses.entity_frame import Frame
from autointerp.lenses.head_entities import HeadEntities, tokens_bound
from autointerp.lenses.head_readings import EVIDENCE, KINDS, HeadLensOptions, HeadReader, cost_bound
from autointerp.lenses.head_vectors import HeadRow
from autointerp.lenses.selfie import Interpreter
from autointerp.model import LanguageModel
from autointerp.pipeline.inputs import Inputs
from autointerp.records import Evidence, Example, Head
from autointerp.store import RunFolder, read_as

FILE = "cache/lenses.jsonl"
TOP, RANDOM, SELFIE_ROWS, REFERENCE = 3, 2, 2, 8
SAMPLE = 8  # windows on which the final norm's gain is found


@dataclass(frozen=True, eq=False)
class LensPlan:
    """The lenses of a run; `vectors` are those of the entity lens. `notes` say what was left out and why."""

    names: tuple[str, ...]
    vectors: EntityVectors | None = None
    notes: tuple[str, ...] = ()

    def facts(self) -> dict[str, object]:
        """What `config.json` holds: other vectors are another run."""
        return {"read": list(self.names), "entity_vectors": self._vectors_hash()}

    def options(self) -> HeadLensOptions:
        """What each head is read with."""
        return HeadLensOptions(selfie=EVIDENCE if "selfie" in self.names else None, max_rows=SELFIE_ROWS)

    def bound(self, model: LanguageModel, n_heads: int, context: int) -> int:
        """Most tokens that the model reads for all heads."""
        if not self.names:
            return 0
        controlled = len(self.names) > 1
        a_head = cost_bound(model, self.options(), TOP + RANDOM + (REFERENCE if controlled else 0), context)
        return n_heads * (a_head + (tokens_bound(TOP + RANDOM, len(KINDS)) if self.vectors else 0))

    def _vectors_hash(self) -> str | None:
        if self.vectors is None:
            return None
        filters = self.vectors.filters
        tensors = [self.vectors.theta] + ([] if filters is None else [filters.weight, filters.bias])
        digest = hashlib.sha256()
        for tensor in tensors:
            digest.update(tensor.detach().float().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class LensCost:
    """What the readings took, for `run.json`; `specific` of `judged` readings beat their controls, by lens."""

    lenses: tuple[str, ...]
    heads: int
    rows: int
    tokens: int  # that the model read
    tokens_at_most: int
    seconds: float
    specific: dict[str, int]
    judged: dict[str, int]

    def __str__(self) -> str:
        if not self.lenses:
            return "lenses: none"
        found = ", ".join(f"{name} {self.specific[name]} of {n} specific" for name, n in self.judged.items() if n)
        return (
            f"lenses: {', '.join(self.lenses)}; {self.rows} rows of {self.heads} heads, {self.tokens:,} tokens through "
            f"the model (at most {self.tokens_at_most:,}), {self.seconds:.1f} s{'; ' + found if found else ''}"
        )


def plan_lenses(config: RunConfig, model: LanguageModel) -> LensPlan:
    """Which lenses a run uses. Raises BadInput where one that is asked for cannot be used with this model."""
    check_lenses(config)
    names = chosen_lenses(config.lenses)
    if names == NO_LENSES:
        return LensPlan(())
    vectors: EntityVectors | None = None
    notes: tuple[str, ...] = ()
    if config.entity_vectors or "entity" in names:
        vectors = _vectors(config, model)
    elif not names:
        vectors, notes = _vectors_at_hand(config, model)
    if "selfie" in names:
        Interpreter(model, EVIDENCE)  # whose prompts may not fit the model
    used = {"logit", *names, *(() if vectors is None else ("entity",))}
    return LensPlan(tuple(name for name in LENSES if name in used), vectors, notes)


def _vectors(config: RunConfig, model: LanguageModel) -> EntityVectors:
    named = replace(model, name=config.model)  # training files them under the name that was given
    if config.entity_vectors:
        found = load_vectors(Path(config.entity_vectors), named)
    else:
        found_here = find_vectors(named, "none")
        if found_here is None:
            raise BadInput(
                f"--lenses names entity, but there are no entity-lens vectors for {config.model}. Train them: "
                f"`autointerp entity-lens train --model {config.model}`, or leave entity out."
            )
        found = found_here
    if found.context != "none":
        raise BadInput(
            f"the entity-lens vectors were trained with context {found.context}, and vectors of heads are read without "
            "one. Give vectors trained with --context none."
        )
    return found


def _vectors_at_hand(config: RunConfig, model: LanguageModel) -> tuple[EntityVectors | None, tuple[str, ...]]:
    """Vectors of the model where there are any; those that do not fit are said and left alone."""
    try:
        Frame.of(model)
    except BadInput:
        return None, ()  # no such vectors can exist
    try:
        return find_vectors(replace(model, name=config.model), "none"), ()
    except BadInput as error:
        return None, (f"the entity lens was not used: {error}",)


def read_lenses(
    run: RunFolder, inputs: Inputs, collected: Collected, plan: LensPlan, progress: Progress
) -> tuple[Collected, LensCost]:
    """The evidence with what the lenses read; heads that are on disk are not read again."""
    if not plan.names:
        return collected, _cost(plan, [], 0)
    held = {r.head: r for r in read_as(run.path(FILE), HeadReadings)}
    heads = [head for head in inputs.heads if head in collected.evidence]
    waiting = [head for head in heads if head not in held]
    bound = plan.bound(inputs.model, len(heads), inputs.corpus.spec.context)
    if waiting:
        progress(f"what {len(waiting)} heads write, in words ({', '.join(plan.names)}; at most {bound:,} tokens)", 0, 0)
        reader = _reader(inputs, plan)
        rows = _Rows(inputs, [collected.evidence[head] for head in waiting], with_controls=len(plan.names) > 1)
        for done, head in enumerate(waiting):
            chosen, reference = rows.of(collected.evidence[head])
            held[head] = reader.read(head, chosen, reference, collected.z_mean[head.layer, head.index])
            run.append(FILE, held[head].model_dump(mode="json"))
            progress("reading heads in words", done + 1, len(waiting))
    evidence = {head: with_readings(found, held.get(head)) for head, found in collected.evidence.items()}
    return replace(collected, evidence=evidence), _cost(plan, [held[head] for head in heads], bound)


def with_readings(evidence: Evidence, found: HeadReadings | None) -> Evidence:
    """The evidence with the readings of its head."""
    if found is None:
        return evidence
    return evidence.model_copy(update={"lenses": found.rows, "notes": (*evidence.notes, *found.notes)})


def stored_readings(folder: Path, head: Head) -> HeadReadings | None:
    """What a run on disk read of a head."""
    records = read_as(folder / FILE, HeadReadings)
    return next((found for found in records if found.head == head), None)


def chosen_examples(evidence: Evidence, *, with_controls: bool) -> tuple[list[Example], list[Example]]:
    """The examples to read, and others from other documents for the controls."""
    live = [example for example in evidence.examples if "no_write" not in example.flags]
    top = [example for example in live if example.stratum == "top"][:TOP]
    places = {_place(example) for example in top}
    drawn = [one for one in live if one.stratum == "random" and _place(one) not in places][:RANDOM]
    chosen = [example for pair in zip_longest(top, drawn) for example in pair if example is not None]
    documents = {example.doc_id for example in chosen}
    reference: list[Example] = []
    for example in live if with_controls else ():
        if example.doc_id not in documents and len(reference) < REFERENCE:
            documents.add(example.doc_id)
            reference.append(example)
    return chosen, reference


def _place(example: Example) -> tuple[str, int, int]:
    return example.doc_id, example.window, example.dst


class _Rows:
    """The ids behind examples, from the explain split."""

    def __init__(self, inputs: Inputs, evidence: Sequence[Evidence], *, with_controls: bool) -> None:
        self._with_controls = with_controls
        explain = inputs.explain_windows()
        self._ids, self._lengths = explain.windows.ids, explain.windows.lengths
        wanted = {example.doc_id for one in evidence for example in one.examples}
        names = {number: name for number, name in enumerate(explain.windows.doc_ids) if name in wanted}
        doc, window = np.asarray(explain.windows.doc), np.asarray(explain.windows.window_in_doc)
        numbers = explain.numbers[np.isin(doc[explain.numbers], list(names))]
        self._numbers = {(names[int(doc[n])], int(window[n])): int(n) for n in numbers}

    def of(self, evidence: Evidence) -> tuple[list[HeadRow], list[HeadRow]]:
        chosen, reference = chosen_examples(evidence, with_controls=self._with_controls)
        return [self._row(example) for example in chosen], [self._row(example) for example in reference]

    def _row(self, example: Example) -> HeadRow:
        number = self._numbers[example.doc_id, example.window]
        ids = np.asarray(self._ids[number][: int(self._lengths[number])])
        return HeadRow(tuple(ids.tolist()), example.dst, example.doc_id, example.window, example.stratum)


def _reader(inputs: Inputs, plan: LensPlan) -> HeadReader:
    entities = None if plan.vectors is None else HeadEntities(inputs.model, plan.vectors)
    reader = HeadReader(inputs.model, plan.options(), entities)
    explain = inputs.explain_windows()
    reader.fit_readout(np.asarray(explain.windows.ids[explain.numbers[:SAMPLE]]))
    return reader


def _cost(plan: LensPlan, found: Sequence[HeadReadings], bound: int) -> LensCost:
    rows = [row for one in found for row in one.rows]
    verdicts: dict[str, list[str]] = {
        "entity": [v.entity.verdict for row in rows for v in row.vectors if v.entity is not None],
        "stream": [row.stream.verdict for row in rows if row.stream is not None],
        "selfie": [s.verdict for row in rows for v in row.vectors for s in v.selfie],
    }
    return LensCost(
        plan.names, len(found), len(rows), sum(one.tokens for one in found), bound,
        round(sum(one.seconds for one in found), 2),
        {name: own.count("specific") for name, own in verdicts.items()},
        {name: len(own) for name, own in verdicts.items()},
    )  # fmt: skip
