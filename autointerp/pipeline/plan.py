"""What a run would send to the server, before anything is sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from autointerp.agent.head_kind import HEADS
from autointerp.agent.kind import LoopKind
from autointerp.agent.spec import LoopSpec
from autointerp.agent.steps import steps_of
from autointerp.chat import SERVER_FILE, FakeChat
from autointerp.chat.rules import RULES_NAME, RulesChat
from autointerp.chat.session import is_stand_in
from autointerp.chat.stand_ins import RECORDED, SCRIPTED
from autointerp.config import RunConfig, Settings
from autointerp.explain import explain_prompt
from autointerp.explain.language import SCHEMA
from autointerp.llm import MAX_PROMPT_TOKENS, Capabilities, ChatRequest, Usage, estimate_prompt, find_prices
from autointerp.pipeline.llm_scores import Desk, control_units, head_desks, order_units
from autointerp.pipeline.talking import TalkPlan, judge_prices, language_settings, templates
from autointerp.records import Description, Domain, Unit
from autointerp.scoring.asking import Asker, Question
from autointerp.scoring.judging import REPEATS, repeat_purpose, second_purpose, single_purpose
from autointerp.scoring.no_evidence import MAX_TOKENS as GUESS_TOKENS
from autointerp.scoring.no_evidence import SCHEMA as GUESS
from autointerp.scoring.other_descriptions import DONORS, NO_EVIDENCE

PROBE_CALLS, PROBE_TOKENS = 9, 200
JUDGE_PROBE = "probe of the judge"
LONGEST = Description(  # no description is longer: the prompts of the estimate are upper bounds
    summary="", looks_at="words " * 67, writes="words " * 67, conditions="words " * 50, label="other"
)
Row = tuple[str, int, int, int]


@dataclass(frozen=True)
class Estimate:
    """Calls and tokens by purpose; `usd` None where the price is unknown. Repairs are not in it; purposes that end in
    `control` are controls, and those of single items are asked only where the answers depend on the order."""

    rows: tuple[Row, ...]  # purpose, calls, prompt tokens, completion tokens (upper bound)
    usd: float | None
    price_source: str
    note: str = ""

    @property
    def calls(self) -> int:
        return sum(row[1] for row in self.rows)

    @property
    def controls(self) -> int:
        """Calls that are controls, the guess without evidence among them."""
        return sum(row[1] for row in self.rows if row[0].endswith("control") or row[0] == NO_EVIDENCE)


NOTHING_ASKED = Estimate((), 0.0, "the detector explainer asks nobody")


def known_capabilities(run: Path, config: RunConfig) -> Capabilities | None:
    """What is known of the server without asking it: from an earlier start of the run, or of a stand-in."""
    if config.llm.startswith(SCRIPTED):
        return Capabilities()
    if config.llm == RULES_NAME:
        return RulesChat.found
    folder = Path(config.llm.removeprefix(RECORDED)) if config.llm.startswith(RECORDED) else run
    try:
        return Capabilities.model_validate_json((folder / SERVER_FILE).read_bytes())
    except (OSError, ValidationError):
        return None


@dataclass(frozen=True)
class Asks:
    """What a run may ask: of every unit its prompt, and what the scorers of its desks ask about it."""

    config: RunConfig
    settings: Settings
    units: Sequence[Unit]
    prompts: Sequence[ChatRequest]
    desks: Mapping[Domain, Desk[Any]]
    loop: LoopKind[Any]
    guess_template: str = "no_evidence"


def head_asks(plan: TalkPlan) -> Asks:
    """What a run over heads may ask."""
    config, source = plan.config, templates(plan.config)
    prompts = [
        explain_prompt(plan.collected.evidence[head], source, language_settings(config))[0] for head in plan.heads
    ]
    requests = [ChatRequest(messages=p.messages, json_schema=SCHEMA) for p in prompts]
    desks = head_desks(config, plan.model.strings, plan.items)
    return Asks(config, plan.settings, plan.heads, requests, desks, HEADS)


def estimate_calls(plan: Asks, capabilities: Capabilities | None) -> Estimate:
    """An upper estimate for the LLM explainer: all units described, all their controls found.

    Where it is not known whether the server gives log-probabilities (`capabilities` None), it is taken to give none,
    and the note says how many calls it would be with them.
    """
    describing = _describing(plan)
    rows = [*describing, *_scoring(plan, capabilities or Capabilities(logprobs=False))]
    note = ""
    if capabilities is None:
        fewer = sum(row[1] for row in (*describing, *_scoring(plan, Capabilities())))
        note = f"the server is not known yet: {fewer} calls if it gives log-probabilities"
    usd, source = _price(plan, rows)
    return Estimate(tuple(rows), usd, source, note)


def _price(plan: Asks, rows: Sequence[Row]) -> tuple[float | None, str]:
    """Cost of all rows, those of the second judge at its own price; None where one is unknown."""
    config, settings = plan.config, plan.settings
    prices = find_prices(config.llm, config.base_url, (settings.price_input, settings.price_output))
    judged = [row for row in rows if row[0] in {JUDGE_PROBE, *map(second_purpose, config.scorers)}]
    cost = prices.cost(_usage([row for row in rows if row not in judged]))
    if not judged:
        return cost, prices.source
    own = judge_prices(config, settings)
    more = own.cost(_usage(judged))
    total = None if cost is None or more is None else cost + more
    return total, prices.source if prices.source == own.source else f"{prices.source}; second judge: {own.source}"


def _usage(rows: Sequence[Row]) -> Usage:
    return Usage(prompt_tokens=sum(r[2] for r in rows), completion_tokens=sum(r[3] for r in rows))


def _describing(plan: Asks) -> list[Row]:
    config, asked = plan.config, language_settings(plan.config)
    sizes = [estimate_prompt(request) for request in plan.prompts]
    probes = 0 if is_stand_in(config.llm) else PROBE_CALLS
    judge = 0 if is_stand_in(config.judge) or not config.judge else PROBE_CALLS
    return [
        ("probe", probes, probes * PROBE_TOKENS, probes * PROBE_TOKENS),
        *([(JUDGE_PROBE, judge, judge * PROBE_TOKENS, judge * PROBE_TOKENS)] if judge else []),
        ("explain", len(sizes), sum(sizes), len(sizes) * asked.max_tokens),
        *_looping(plan, len(sizes), sum(sizes), asked.max_tokens),
    ]


def _looping(asks: Asks, n: int, size: int, reply: int) -> Iterator[Row]:
    """What loops would ask if every unit's verdict were open."""
    plan = asks.config.agent_plan
    if plan.best_of > 1:
        more = plan.best_of - 1
        yield "explain again", n * more, size * more, n * more * reply
    for step, times in steps_of(asks.loop, LoopSpec(rounds=plan.rounds)):
        yield step.purpose, n * times, n * times * MAX_PROMPT_TOKENS, n * times * step.max_tokens


def _scoring(plan: Asks, capabilities: Capabilities) -> list[Row]:
    asker = Asker(FakeChat(()), capabilities, templates(plan.config), plan.config.seed)
    names = list(dict.fromkeys(name for desk in plan.desks.values() for name in desk.scorers(asker)))
    if not names:
        return []
    guess = ChatRequest(messages=asker.templates.render(plan.guess_template, {}).messages, json_schema=GUESS)
    rows: list[Row] = [(NO_EVIDENCE, 1, estimate_prompt(guess), GUESS_TOKENS)]
    for name in names:
        rows += _scorer_rows(plan, asker, name)
    return rows


def _scorer_rows(plan: Asks, asker: Asker, name: str) -> Iterator[Row]:
    units: Sequence[Any] = plan.units
    largest = {unit: found for unit in units if (found := _largest(plan, asker, name, unit)) is not None}
    controls = control_units(units, plan.config.seed)
    controlled = [found.question for unit, found in largest.items() if unit in controls]
    again = [largest[unit] for unit in sorted(order_units(units, plan.config.seed, largest))]
    questions = [found.question for found in largest.values()]
    repeats = next(iter(largest.values())).repeats if largest else 1
    parts: dict[str, tuple[Sequence[Question[object]], int]] = {
        name: (questions, repeats),
        f"{name} control": (controlled, (DONORS + 1) * repeats),
        repeat_purpose(name): ([found.question for found in again], REPEATS - repeats),
        single_purpose(name): ([question for found in again for question in found.singles], 1),
        second_purpose(name): ([found.question for found in again] if plan.config.judge else [], 1),
    }
    for purpose, (asked, times) in parts.items():
        if asked:
            size, reply = sum(_size(asker, q) for q in asked), sum(q.max_tokens for q in asked)
            yield purpose, times * len(asked), times * size, times * reply


@dataclass(frozen=True)
class _Largest:
    """The largest question that a scorer may ask about a unit, whichever domain is claimed; its items one by one."""

    question: Question[object]
    singles: tuple[Question[object], ...]
    repeats: int


def _largest(plan: Asks, asker: Asker, name: str, unit: Unit) -> _Largest | None:
    found: list[_Largest] = []
    for desk in plan.desks.values():
        scorer = desk.scorers(asker).get(name)
        asked = desk.items(name, unit)
        if scorer is not None and scorer.lacks(asked) is None:
            singles = tuple(scorer.question(unit, LONGEST, [item]) for item in scorer.asked(asked))
            found.append(_Largest(scorer.question(unit, LONGEST, asked), singles, scorer.calls))
    return max(found, key=lambda one: _size(asker, one.question), default=None)


def _size(asker: Asker, question: Question[object]) -> int:
    messages = asker.templates.render(question.template, question.values).messages
    return estimate_prompt(ChatRequest(messages=messages, json_schema=dict(question.schema)))
