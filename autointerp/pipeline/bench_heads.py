"""`bench heads`: descriptions of a run beside what was published of the model's heads.

1. The rows of the run's model: of the shipped table, of a user's own, or of a planted model's answer key.
2. The run folder is read; nothing else is needed.
3. Pattern class, effect class and label of this run, of the detectors alone, and by identity alone where a language
   model was asked; rank under the detectors of each label; decoys; heads with random weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from autointerp.config import RunConfig, Settings
from autointerp.errors import BadInput
from autointerp.model import InstrumentReport, LanguageModel, load_model
from autointerp.pipeline.bench_heads_asked import Asked, Subject, ask_published, saved_answers
from autointerp.pipeline.bench_heads_ranks import Ranked, confirmation, ranked
from autointerp.pipeline.bench_heads_run import DETECTORS, RUN, RunView, read_run, saved_model
from autointerp.pipeline.bench_heads_scores import (
    MEASURES,
    Difference,
    Known,
    Measured,
    Statement,
    difference,
    known_heads,
    measured,
    statements,
)
from autointerp.pipeline.bench_heads_table import PublishedRow, check_shape, read_table, rows_of
from autointerp.pipeline.bench_planted import answer_key
from autointerp.pipeline.inputs import Sources
from autointerp.planted.model import seed_of
from autointerp.records import Head, Unscored

ID_ONLY = "by identity alone"
NOISE = ("previous_token", "duplicate_token", "induction", "copying", "successor")  # what a noise head is not
PLANTED = "answer key of the planted model"
Asking = tuple[RunConfig, Settings]  # which language model, and how


@dataclass(frozen=True)
class TableChoice:
    """Which rows: a user's file, the name under which the table has the model, the texts whose labels count."""

    table: Path | None = None
    name: str = ""
    texts: tuple[str, ...] = ("general",)


@dataclass(frozen=True)
class HeadsBench:
    """Everything that `bench heads` found."""

    run: RunView
    choice: TableChoice
    statements: tuple[Statement, ...]
    known: tuple[Known, ...]
    missing: int  # published heads that the run does not have
    measures: dict[str, tuple[Measured, ...]]  # by who answered
    differences: dict[str, tuple[Difference, ...]]  # this run minus another
    ranks: tuple[Ranked, ...]
    unscored: tuple[Unscored, ...]
    asked: Asked

    def published(self) -> list[Head]:
        """All heads of the table, ascending."""
        return sorted({one.row.head for one in self.statements})

    def known_of(self, head: Head) -> Known:
        """What counts for a head; nothing for one whose rows do not count."""
        return next((one for one in self.known if one.head == head), Known(head, {}))


def published_rows(model: str, choice: TableChoice) -> tuple[PublishedRow, ...]:
    """The rows of a model. Raises BadInput for a bad table, and for a model that the table does not have."""
    name = choice.name or model
    seed = seed_of(name) if choice.table is None else None
    if seed is not None:
        return planted_rows(name, seed)
    return rows_of(read_table() if choice.table is None else read_table(choice.table), name)


def planted_rows(model: str, seed: int) -> tuple[PublishedRow, ...]:
    """The answer key of a planted model in the form of the table; noise heads are decoys."""
    rows = []
    for head, truth in sorted(answer_key(seed).items()):
        said = [(label, False) for label in truth.labels] or [(label, True) for label in NOISE]
        role = f"planted as {truth.kind}" + (f": {truth.predicate}" if truth.predicate else "")
        rows += [PublishedRow(model, head, label, negative, role, PLANTED, "A") for label, negative in said]
    return tuple(rows)


def checked_sources(sources: Sources, rows: Sequence[PublishedRow]) -> Sources:
    """`sources` whose model is refused as soon as it is loaded, where it lacks a head of the table."""
    load = sources.load or partial(load_model, sources.model)

    def checked(device: str, dtype: str) -> tuple[LanguageModel, InstrumentReport]:
        model, instrument = load(device, dtype)
        check_shape(rows, model.n_layers, model.n_heads)
        return model, instrument

    return replace(sources, load=checked)


def bench_heads(folder: Path, choice: TableChoice, asking: Asking | None = None, seed: int = 0) -> HeadsBench:
    """Score the run in `folder`; with `asking` ask a language model first. Raises AutointerpError."""
    rows = published_rows(saved_model(folder), choice)
    run = read_run(folder, rows)
    check_shape(rows, run.layers, run.heads_per_layer)
    published = {row.head for row in rows}
    missing = sum(head not in run.cards for head in published)
    if missing == len(published):
        raise BadInput(f"{folder} holds none of the {missing} published heads of {rows[0].model}. Run "
                       "describe-all-heads without --heads, or with heads of the table.")  # fmt: skip
    found = statements(rows, choice.texts, lambda row: confirmation(row, run.readings))
    known = known_heads(found)
    subject = Subject(run, rows[0].model, known, found)
    asked = saved_answers(subject) if asking is None else ask_published(subject, *asking)
    if asked.identity:
        run.answers[ID_ONLY] = dict(asked.identity)
    ranks = ranked(found, run.readings, run.n_heads, seed)
    return HeadsBench(
        run, choice, found, known, missing,
        {who: tuple(measured(name, known, answers, seed) for name in MEASURES) for who, answers in run.answers.items()},
        {who: tuple(difference(name, known, run.answers[RUN], answers, seed) for name in MEASURES)
         for who, answers in run.answers.items() if who != RUN},
        tuple(r for r in ranks if isinstance(r, Ranked)),
        (*_without_number(run, asked), *(r for r in ranks if isinstance(r, Unscored))), asked,
    )  # fmt: skip


def _without_number(run: RunView, asked: Asked) -> list[Unscored]:
    """What the run folder cannot answer."""
    out = []
    ask = "was asked about other rows or descriptions" if asked.stale else "was not asked"
    ask = f"a language model {ask}; give --llm or --base-url"
    ask = f"{asked.llm} was asked, and {asked.failed} requests failed" if asked.failed else ask
    if not asked.identity:
        out.append(Unscored(scorer=ID_ONLY, reason=ask))
    if not asked.roles:
        silent = asked.llm and not asked.failed
        why = "no head with a label that counts was described" if silent else ask
        out.append(Unscored(scorer="text beside the published role", reason=why))
    if DETECTORS not in run.answers:
        out.append(Unscored(scorer=DETECTORS, reason="this run is the detectors"))
    if not run.random_weights:
        out.append(Unscored(scorer="random heads", reason="the run is older than that control"))
    elif "reason" in run.random_weights:
        out.append(Unscored(scorer="random heads", reason=str(run.random_weights["reason"])))
    return out
