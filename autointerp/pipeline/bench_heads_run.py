"""What `bench heads` reads of a run folder: answers, readings, and whether the run was blind. Nothing is computed anew
but the detectors' own description, which follows from the evidence and is scored beside an LLM's by the same code.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autointerp.errors import BadInput, RunFolderError
from autointerp.explain.detectors import describe
from autointerp.pipeline.bench_heads_labels import Detector
from autointerp.pipeline.bench_heads_scores import counted_labels
from autointerp.pipeline.bench_heads_table import PublishedRow
from autointerp.records import Description, Head, HeadReport, Reading
from autointerp.report.folder import open_heads, read_json
from autointerp.scoring.other_descriptions import NO_EVIDENCE

RUN, DETECTORS = "this run", "detectors alone"
LONG_ENOUGH = 20  # characters of a role that cannot stand in a prompt by accident
_HEAD_ID = re.compile(r"\bL\d+H\d+\b|\blayer \d+\b", re.IGNORECASE)


@dataclass(frozen=True)
class HeadCard:
    """A head of the run in short. `retrieval`: the rank of its own head under its description, and of how many."""

    status: str
    summary: str
    verdict: str
    labels: tuple[str, ...]
    retrieval: tuple[float, int] | None = None
    no_evidence: tuple[tuple[str, float, float, bool], ...] = ()  # scorer, score, its control, whether it is beaten
    account: Mapping[str, str] = field(default_factory=dict)  # what it says in words; empty: nothing


@dataclass
class RunView:
    """A run as the benchmark sees it."""

    folder: Path
    model: str
    corpus: tuple[str, ...]
    explainer: str
    layers: int
    heads_per_layer: int
    cards: dict[Head, HeadCard] = field(default_factory=dict)
    answers: dict[str, dict[Head, tuple[str, ...]]] = field(default_factory=dict)
    readings: dict[Head, dict[Detector, Reading]] = field(default_factory=dict)
    random_weights: Mapping[str, object] = field(default_factory=dict)
    leaks: tuple[str, ...] = ()
    n_prompts: int = 0

    @property
    def n_heads(self) -> int:
        return self.layers * self.heads_per_layer


def saved_model(folder: Path) -> str:
    """The model of a run, as its config has it. Raises BadInput or RunFolderError."""
    if not folder.is_dir():
        raise BadInput(f"--run {folder} is not a folder. Give the folder of a run.")
    config = read_json(folder / "config.json").get("config")
    if not isinstance(config, dict) or not isinstance(config.get("model"), str):
        raise RunFolderError(f"{folder} holds no config.json with a model, so it is no run folder. Give that of a run.")
    return str(config["model"])


def read_run(folder: Path, rows: Sequence[PublishedRow]) -> RunView:
    """The run in `folder`, with `rows` of its model. Raises BadInput or RunFolderError."""
    model = saved_model(folder)
    config, run = read_json(folder / "config.json")["config"], read_json(folder / "run.json")
    shape = run.get("model", {})
    explainer, random = str(config.get("explainer", "")), run.get("random_weights")
    view = RunView(
        folder, model, tuple(map(str, config.get("corpus") or ())), explainer, int(shape.get("layers") or 0),
        int(shape.get("heads") or 0), random_weights=random if isinstance(random, Mapping) else {},
    )  # fmt: skip
    watch = _Watch(model, rows)
    watch.found |= set() if config.get("blind", True) else {"what its config allows (blind: false)"}
    for report in open_heads(folder).reports():
        _take(view, report)
        watch.read(report.provenance.prompt)
    if not view.cards:
        raise RunFolderError(f"{folder} holds no head. Run the command again that made it.")
    view.layers = max(view.layers, 1 + max(head.layer for head in view.cards))  # a stopped run may lack run.json
    view.heads_per_layer = max(view.heads_per_layer, 1 + max(head.index for head in view.cards))
    for prompt in _prompts(folder / "calls.jsonl"):
        watch.read(prompt)
    view.leaks, view.n_prompts = tuple(sorted(watch.found)), watch.n
    return view


def _take(view: RunView, report: HeadReport) -> None:
    said, head = report.description, report.head
    own = _answer(said)
    view.answers.setdefault(RUN, {})[head] = own
    if view.explainer != "detectors":
        view.answers.setdefault(DETECTORS, {})[head] = _answer(describe(report.evidence))
    view.readings[head] = {(r.name, r.data): r for r in report.evidence.readings}
    guesses = tuple(
        (score.scorer, float(score.value), float(control.value), control.beaten)
        for score in report.scores
        for control in score.controls
        if control.name == NO_EVIDENCE
    )
    view.cards[head] = HeadCard(
        report.status, "" if said is None else said.summary, str(report.judgement.verdict), own, _retrieval(report),
        guesses, _account(said),
    )  # fmt: skip


def _answer(said: Description | None) -> tuple[str, ...]:
    return () if said is None else counted_labels((said.label, *said.labels), abstained=said.abstained)


def _account(said: Description | None) -> dict[str, str]:
    if said is None or said.abstained:
        return {}
    return {"looks_at": said.looks_at, "writes": said.writes, "conditions": said.conditions}


def _retrieval(report: HeadReport) -> tuple[float, int] | None:
    for score in report.scores:
        rank, n = score.details.get("retrieval_rank"), score.details.get("retrieval_heads")
        if isinstance(rank, int | float) and isinstance(n, int) and not math.isnan(rank):
            return float(rank), n
    return None


def _prompts(path: Path) -> Iterator[Iterable[Mapping[str, str]]]:
    """Prompts of `calls.jsonl`, where there is one; a half-written line is passed over."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                call = json.loads(line)
            except ValueError:
                continue
            prompt = call.get("prompt") if isinstance(call, dict) else None
            if isinstance(prompt, list):
                yield [message for message in prompt if isinstance(message, dict)]


class _Watch:
    """Looks in prompts for what a blind run must not show: heads, the model's name, roles and sources of the table."""

    def __init__(self, model: str, rows: Sequence[PublishedRow]) -> None:
        names = {model, *(row.model for row in rows)}
        told = {name for name in names if re.search(r"[\d/:]", name) and len(name) > 3}  # others are ordinary words
        told |= {text for row in rows for text in (row.role, row.source) if len(text) >= LONG_ENOUGH}
        self._told = {text.casefold(): text for text in told}
        self.found: set[str] = set()
        self.n = 0

    def read(self, prompt: Iterable[Mapping[str, str]]) -> None:
        messages = [str(message.get("content", "")) for message in prompt]
        self.n += bool(messages)
        for text in messages:
            self.found |= {match.group() for match in _HEAD_ID.finditer(text)}
            folded = text.casefold()
            self.found |= {text for key, text in self._told.items() if key in folded}
