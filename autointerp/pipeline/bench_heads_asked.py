"""What `bench heads` asks a language model, where there is one: about heads by identity alone, and a judge of roles.

1. Identity: one call a published head with the model's name, layer and index and no evidence. What it gets right, the
   language model remembers (scoring_validity rule 17).
2. Roles: one call a described head with its description and what was published of it: matches, compatible or
   contradicts. The same with what was published of another head that has no label in common: the chance line.
Requests and answers lie in `published/` in the run folder, apart from the blind requests of the run itself. The judge
does not see the head, the model or who described; heads that were not described are not asked about and match nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from autointerp.chat import chat_session
from autointerp.config import RunConfig, Settings
from autointerp.pipeline.bench_heads_run import RunView
from autointerp.pipeline.bench_heads_scores import Known, Statement, counted_labels
from autointerp.pipeline.talking import CACHE, chat_options, templates
from autointerp.records import LABELS, Failure, Head
from autointerp.report.folder import read_json
from autointerp.scoring.asking import Asker, Question
from autointerp.store import CallLog, RequestCache, RunFolder

FOLDER, FILE = "published", "answers.json"
IDENTITY, ROLE = "published_identity", "published_role"
VERDICTS = ("matches", "compatible", "contradicts")
MAX_LABELS = 4


@dataclass(frozen=True)
class Asked:
    """Answers by head. `identity`: labels; `roles` and `other_roles`: a verdict; a failed request is left out."""

    llm: str = ""
    identity: Mapping[Head, tuple[str, ...]] = field(default_factory=dict)
    roles: Mapping[Head, str] = field(default_factory=dict)
    other_roles: Mapping[Head, str] = field(default_factory=dict)
    failed: int = 0
    stale: bool = False  # what lies there is about other rows or other descriptions


@dataclass(frozen=True)
class Subject:
    """What is asked: a run, what is known of its heads, and the name that the table has for its model."""

    run: RunView
    model: str
    known: Sequence[Known]
    statements: Sequence[Statement]

    def heads(self) -> list[Known]:
        return [one for one in self.known if one.labels and one.head in self.run.cards]

    def digest(self) -> str:
        """Changes with the rows that count, and with what the run says of their heads."""
        facts = [[str(k.head), self.roles(k.head), dict(self.run.cards[k.head].account)] for k in self.heads()]
        return hashlib.sha256(json.dumps([self.model, facts], sort_keys=True).encode()).hexdigest()

    def roles(self, head: Head) -> list[str]:
        return list(dict.fromkeys(s.row.role for s in self.statements if s.row.head == head and s.state == "counted"))


def saved_answers(subject: Subject) -> Asked:
    """The answers in the run folder; empty where nothing was asked, or `stale` where it was about something else."""
    held = read_json(subject.run.folder / FOLDER / FILE)
    if held and held.get("subject") != subject.digest():
        return Asked(stale=True)
    own, other = ({Head.parse(h): str(v) for h, v in held.get(name, {}).items()} for name in ("roles", "other_roles"))
    return Asked(
        str(held.get("llm", "")),
        {Head.parse(name): tuple(labels) for name, labels in held.get("identity", {}).items()},
        own,
        other,
        int(held.get("failed", 0)),
    )


def ask_published(subject: Subject, config: RunConfig, settings: Settings) -> Asked:
    """Ask, keep the answers in the run folder, and return them. Raises ServerError, BudgetExceeded, BadInput."""
    return asyncio.run(_ask(subject, config, settings))


async def _ask(subject: Subject, config: RunConfig, settings: Settings) -> Asked:
    root = subject.run.folder
    with RunFolder(root / FOLDER) as folder, RequestCache(root.parent / CACHE, folder.run_id) as cache:
        log = CallLog(folder)
        options = chat_options(config, settings, log)
        before = CallLog(RunFolder(root)).tokens_used  # the budget holds for the run and this together
        spent = (options.spent[0] + before[0], options.spent[1] + before[1])
        async with chat_session(replace(options, spent=spent), cache, log) as session:
            asker = Asker(session.chat, session.capabilities, templates(config), config.seed)
            identity = await _all(asker, identity_questions(subject))
            roles = await _all(asker, role_questions(subject, config.seed, own=True))
            others = await _all(asker, role_questions(subject, config.seed, own=False))
            llm = session.endpoint.model
        found = {"identity": identity, "roles": roles, "other_roles": others}
        failed = sum(isinstance(value, Failure) for answers in found.values() for value in answers.values())
        kept = {
            name: {str(head): value for head, value in answers.items() if not isinstance(value, Failure)}
            for name, answers in found.items()
        }
        folder.write_json(FILE, {"llm": llm, "subject": subject.digest(), **kept, "failed": failed})
    return saved_answers(subject)


async def _all(asker: Asker, questions: Sequence[Question[Any]]) -> dict[Head, Any]:
    async def one(question: Question[Any]) -> Any:
        answer = await asker.ask(question)
        return answer if isinstance(answer, Failure) else answer.value

    found = await asyncio.gather(*(one(question) for question in questions))
    named = [question.unit for question in questions]
    return {head: value for head, value in zip(named, found, strict=True) if isinstance(head, Head)}


def identity_questions(subject: Subject) -> list[Question[tuple[str, ...]]]:
    """One for each published head: its place and no evidence."""
    items = {"type": "string", "enum": list(LABELS)}
    schema = {
        "type": "object",
        "properties": {"labels": {"type": "array", "items": items, "minItems": 1, "maxItems": MAX_LABELS}},
        "required": ["labels"],
        "additionalProperties": False,
    }
    return [
        Question(
            template=IDENTITY, schema_name="identity", schema=schema, parse=_labels, max_tokens=200, purpose="identity",
            values={"labels": LABELS, "head": {"model": subject.model, "layer": k.head.layer, "head": k.head.index}},
            unit=k.head,
        )
        for k in subject.heads()
    ]  # fmt: skip


def _labels(reply: Mapping[str, Any]) -> tuple[str, ...]:
    found = reply.get("labels")
    if not isinstance(found, list) or not found or not all(label in LABELS for label in found):
        raise ValueError(f"labels must be a list of one or more of: {', '.join(LABELS)}")
    return counted_labels([str(label) for label in found], abstained=False)


def role_questions(subject: Subject, seed: int, *, own: bool) -> list[Question[str]]:
    """One for each published head that was described: its own roles, or those of another head (`donor`)."""
    schema = {
        "type": "object",
        "properties": {"verdict": {"type": "string", "enum": list(VERDICTS)}},
        "required": ["verdict"],
        "additionalProperties": False,
    }
    questions = []
    for known in subject.heads():
        account = subject.run.cards[known.head].account
        source = known if own else donor(known, subject.heads(), seed)
        if not account or source is None:
            continue
        values = {"account": account, "reference": subject.roles(source.head)}
        questions.append(
            Question(
                template=ROLE, values=values, schema_name="role", schema=schema, parse=_verdict, max_tokens=100,
                purpose="role" if own else "other role", unit=known.head,
            )
        )  # fmt: skip
    return questions


def donor(known: Known, heads: Sequence[Known], seed: int) -> Known | None:
    """Another head whose labels, in the product's words, have nothing in common with this one's."""
    own = frozenset[str]().union(*known.labels.values())
    free = [one for one in heads if not own & frozenset[str]().union(*one.labels.values())]
    draw = np.random.default_rng([seed, known.head.layer, known.head.index])
    return free[int(draw.integers(len(free)))] if free else None


def _verdict(reply: Mapping[str, Any]) -> str:
    found = reply.get("verdict")
    if found not in VERDICTS:
        raise ValueError(f"verdict must be one of: {', '.join(VERDICTS)}")
    return str(found)
