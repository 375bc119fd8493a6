"""What a run would send to the server, before anything is sent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from autointerp.chat import SERVER_FILE, FakeChat
from autointerp.chat.stand_ins import RECORDED, SCRIPTED
from autointerp.config import RunConfig
from autointerp.explain import explain_prompt
from autointerp.explain.language import SCHEMA
from autointerp.llm import Capabilities, ChatRequest, Usage, estimate_prompt, find_prices
from autointerp.pipeline.llm_scores import DONORS, LLM_SCORERS, control_heads, order_heads, scorers
from autointerp.pipeline.talking import TalkPlan, language_settings, templates
from autointerp.records import Description, Head
from autointerp.scoring.asking import Asker, Question
from autointerp.scoring.no_evidence import MAX_TOKENS as GUESS_TOKENS
from autointerp.scoring.no_evidence import SCHEMA as GUESS

PROBE_CALLS, PROBE_TOKENS = 6, 200
ASKED_ONCE = ("effect",)  # with and without log-probabilities
LONGEST = Description(  # no description is longer: the prompts of the estimate are upper bounds
    summary="", looks_at="words " * 67, writes="words " * 67, conditions="words " * 50, label="other"
)
Row = tuple[str, int, int, int]


@dataclass(frozen=True)
class Estimate:
    """Calls and tokens by purpose; `usd` None where the price is unknown. Repairs are not in it."""

    rows: tuple[Row, ...]  # purpose, calls, prompt tokens, completion tokens (upper bound)
    usd: float | None
    price_source: str
    note: str = ""

    @property
    def calls(self) -> int:
        return sum(row[1] for row in self.rows)


NOTHING_ASKED = Estimate((), 0.0, "the detector explainer asks nobody")


def known_capabilities(run: Path, config: RunConfig) -> Capabilities | None:
    """What is known of the server without asking it: from an earlier start of the run, or of a stand-in."""
    if config.llm.startswith(SCRIPTED):
        return Capabilities()
    folder = Path(config.llm.removeprefix(RECORDED)) if config.llm.startswith(RECORDED) else run
    try:
        return Capabilities.model_validate_json((folder / SERVER_FILE).read_bytes())
    except (OSError, ValidationError):
        return None


def estimate_calls(plan: TalkPlan, capabilities: Capabilities | None) -> Estimate:
    """An upper estimate for the LLM explainer: all heads described, all their controls found.

    Where it is not known whether the server gives log-probabilities (`capabilities` None), it is taken to give none,
    and the note says how many calls it would be with them.
    """
    describing = _describing(plan)
    rows = [*describing, *_scoring(plan, capabilities or Capabilities(logprobs=False))]
    note = ""
    if capabilities is None:
        fewer = sum(row[1] for row in (*describing, *_scoring(plan, Capabilities())))
        note = f"the server is not known yet: {fewer} calls if it gives log-probabilities"
    settings = plan.settings
    prices = find_prices(plan.config.llm, plan.config.base_url, (settings.price_input, settings.price_output))
    usage = Usage(prompt_tokens=sum(r[2] for r in rows), completion_tokens=sum(r[3] for r in rows))
    return Estimate(tuple(rows), prices.cost(usage), prices.source, note)


def _describing(plan: TalkPlan) -> list[Row]:
    config, source = plan.config, templates(plan.config)
    asked = language_settings(config)
    prompts = [explain_prompt(plan.collected.evidence[head], source, asked)[0] for head in plan.heads]
    sizes = [estimate_prompt(ChatRequest(messages=p.messages, json_schema=SCHEMA)) for p in prompts]
    probes = 0 if config.llm.startswith((SCRIPTED, RECORDED)) else PROBE_CALLS
    return [
        ("probe", probes, probes * PROBE_TOKENS, probes * PROBE_TOKENS),
        ("explain", len(sizes), sum(sizes), len(sizes) * asked.max_tokens),
    ]


def _scoring(plan: TalkPlan, capabilities: Capabilities) -> list[Row]:
    names = [name for name in LLM_SCORERS if name in plan.config.scorers]
    if not names:
        return []
    asker = Asker(FakeChat(()), capabilities, templates(plan.config), plan.config.seed)
    guess = ChatRequest(messages=asker.templates.render("no_evidence", {}).messages, json_schema=GUESS)
    rows: list[Row] = [("no evidence", 1, estimate_prompt(guess), GUESS_TOKENS)]
    for name in names:
        rows += _scorer_rows(plan, asker, name)
    return rows


def _scorer_rows(plan: TalkPlan, asker: Asker, name: str) -> Iterator[Row]:
    questions = {head: question for head in plan.heads if (question := _question(plan, asker, name, head)) is not None}
    repeats = 1 if name in ASKED_ONCE else asker.repeats
    controlled = control_heads(plan.heads, plan.config.seed)
    twice = order_heads(plan.heads, plan.config.seed) if name == "detection" and asker.repeats == 1 else ()
    parts = {
        name: (list(questions), repeats),
        f"{name} control": ([h for h in questions if h in controlled], (DONORS + 1) * repeats),
        f"{name} order": ([h for h in questions if h in twice], 1),
    }
    for purpose, (heads, times) in parts.items():
        if heads:
            asked = [questions[head] for head in heads]
            size, reply = sum(_size(asker, q) for q in asked), sum(q.max_tokens for q in asked)
            yield purpose, times * len(heads), times * size, times * reply


def _question(plan: TalkPlan, asker: Asker, name: str, head: Head) -> Question[object] | None:
    """The largest question that the scorer may ask about a head, whichever domain is claimed."""
    found: list[Question[object]] = []
    for items in plan.items.values():
        scorer = scorers(plan.config, asker, plan.model.strings, items.rows, plan.heads)[name]
        if scorer.lacks(items.of(name, head)) is None:
            found.append(scorer.question(head, LONGEST, items.of(name, head)))
    return max(found, key=lambda q: _size(asker, q), default=None)


def _size(asker: Asker, question: Question[object]) -> int:
    messages = asker.templates.render(question.template, question.values).messages
    return estimate_prompt(ChatRequest(messages=messages, json_schema=dict(question.schema)))
