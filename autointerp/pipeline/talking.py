"""The part of a run that may talk to a language model: descriptions and scores, in the one event loop of the run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from autointerp.agent.head_kind import HEADS
from autointerp.agent.laboratory import LabData, Laboratory
from autointerp.chat import SERVER_FILE, ChatOptions, chat_session
from autointerp.chat.session import ChatSession
from autointerp.chat.stand_ins import RECORDED, SCRIPTED
from autointerp.config import RunConfig, Settings
from autointerp.errors import BadInput
from autointerp.evidence.collect import Collected, Progress
from autointerp.explain import DetectorExplainer, Explainer, Explanation, LanguageExplainer
from autointerp.explain.asked import REPAIR
from autointerp.explain.language import LanguageSettings
from autointerp.llm import Capabilities, ClientOptions, Prices, Usage, find_prices
from autointerp.model import LanguageModel
from autointerp.pipeline.agents import Asking, Study, run_study
from autointerp.pipeline.describing import Pace, U, describe_units, used_up
from autointerp.pipeline.judging import ask_second_judge, repeat_judge
from autointerp.pipeline.llm_scores import ByScorer, Items, LlmScoring, Scored, controls_of, head_desks, score_with_llm
from autointerp.prompting import FEATURE_TEMPLATES, VARIABLES, Templates
from autointerp.records import Description, Failure, Head, Transcript
from autointerp.report.folder import read_json
from autointerp.scoring.asking import Asker, Controls
from autointerp.store import CallLog, RequestCache, RunFolder

CACHE = "requests.sqlite"
AGENT_TEMPLATES = "agent_"  # how their names begin
N = TypeVar("N", int, float)


@dataclass(frozen=True)
class TalkPlan:
    """Everything the event loop needs, made before it starts."""

    config: RunConfig
    settings: Settings
    model: LanguageModel
    collected: Collected
    heads: Sequence[Head]
    items: Items
    lab: LabData | None = None  # what experiments need; None where the agent is off


@dataclass
class Costs:
    """What the chat models of a run cost in USD, by role (None: the price is unknown), and what users should know."""

    costs: dict[str, float | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def cost_usd(self) -> float | None:
        """All of it; None where nothing was asked or a price is unknown."""
        found = [cost for cost in self.costs.values() if cost is not None]
        return sum(found) if found and len(found) == len(self.costs) else None


@dataclass
class Talk(Costs):
    """What came out: descriptions, scores of the scorers that ask, and what it cost."""

    descriptions: dict[Head, Explanation] = field(default_factory=dict)
    scored: Scored = field(default_factory=dict)
    transcripts: dict[Head, Transcript] = field(default_factory=dict)


async def try_server(run: RunFolder, config: RunConfig, settings: Settings) -> None:
    """Connect once and find out what the server can do, also with the second judge; the findings are kept. Raises
    ServerError or BadInput."""
    log = CallLog(run)
    with RequestCache(run.root.parent / CACHE, run.run_id) as cache:
        async with chat_session(chat_options(config, settings, log), cache, log):
            pass
        if config.judge:
            async with chat_session(judge_options(config, settings, log), cache, log):
                pass


async def talk(run: RunFolder, plan: TalkPlan, state: Talk, progress: Progress) -> None:
    """Describe all heads and ask the LLM for their scores; `state` fills as it goes: what was paid for is kept."""
    if plan.config.explainer != "llm":
        await _describe(run, DetectorExplainer(), plan, state, progress)
        return
    with run_chats(run, plan.config, plan.settings, state) as chats:
        async with chats.explainer() as session:
            scoring = await _with_server(run, plan, state, session, progress)
            if plan.config.judge:
                await chats.ask_judge(session, scoring, state.scored, progress)


@dataclass(frozen=True)
class Chats:
    """The chat models of a run, its cache and its log of calls."""

    run: RunFolder
    config: RunConfig
    settings: Settings
    state: Costs
    cache: RequestCache
    log: CallLog

    @asynccontextmanager
    async def explainer(self) -> AsyncIterator[ChatSession]:
        """The model that describes and scores; what it can do is kept in the run."""
        async with chat_session(chat_options(self.config, self.settings, self.log), self.cache, self.log) as session:
            self.state.notes += session.notes
            self.run.write_json(SERVER_FILE, session.capabilities)
            try:
                yield session
            finally:
                self.state.costs["explainer"] = session.budget.cost

    async def ask_judge(
        self, first: ChatSession, scoring: LlmScoring[U], into: dict[U, ByScorer], progress: Progress
    ) -> None:
        """The same items asked of the second judge, within what the first model left of the budget."""
        options = judge_options(self.config, self.settings, self.log, first.budget.cost)
        async with chat_session(options, self.cache, self.log) as session:
            asker = replace(scoring.asker, chat=session.chat, capabilities=session.capabilities)
            try:
                await ask_second_judge(scoring, asker, session.endpoint.model, into, progress)
            finally:
                self.state.costs["judge"] = session.budget.cost


@contextmanager
def run_chats(run: RunFolder, config: RunConfig, settings: Settings, state: Costs) -> Iterator[Chats]:
    """The request cache of the runs' folder, open, and the models that a run talks to."""
    with RequestCache(run.root.parent / CACHE, run.run_id) as cache:
        yield Chats(run, config, settings, state, cache, CallLog(run))


def chat_options(config: RunConfig, settings: Settings, log: CallLog | None = None) -> ChatOptions:
    """The chat model that a run or `check-server` talks to. What a second judge used before is not in its budget."""
    client = ClientOptions(
        base_url=settings.base_url or config.base_url,
        api_key=settings.api_key.get_secret_value() if settings.api_key else "",
        timeout=settings.timeout,
        retry_base=settings.retry_base,
    )
    own = all_used = (0, 0)
    if log is not None:
        all_used, own = log.tokens_used, log.tokens_of(judge_name(config)) if config.judge else own
    earlier = Usage(prompt_tokens=own[0], completion_tokens=own[1])
    return ChatOptions(
        llm=config.llm,
        client=client,
        concurrency=settings.concurrency,
        usd=_left(settings.budget_usd, judge_prices(config, settings).cost(earlier) if config.judge else 0),
        tokens=_left(settings.budget_tokens, sum(own)),
        prices=(settings.price_input, settings.price_output),
        spent=(all_used[0] - own[0], all_used[1] - own[1]),
    )


def judge_options(config: RunConfig, settings: Settings, log: CallLog, cost: float | None = None) -> ChatOptions:
    """The second judge; its budget is what the first model left over (`cost`: what that one took, in USD)."""
    own = log.tokens_of(judge_name(config))
    return replace(
        chat_options(config, settings),
        llm=config.judge,
        usd=_left(settings.budget_usd, cost),
        tokens=_left(settings.budget_tokens, sum(log.tokens_used) - sum(own)),
        spent=own,
    )


def judge_name(config: RunConfig) -> str:
    """The name of the second judge in the log of calls."""
    return next((kind[:-1] for kind in (SCRIPTED, RECORDED) if config.judge.startswith(kind)), config.judge)


def judge_prices(config: RunConfig, settings: Settings) -> Prices:
    """What the second judge costs."""
    address = settings.base_url or config.base_url
    return find_prices(config.judge, address, (settings.price_input, settings.price_output))


def _left(limit: N | None, spent: N | None) -> N | None:
    """A limit less what was spent of it; no limit stays none, and an unknown price counts as nothing."""
    return None if limit is None else max(limit * 0, limit - (spent or 0))


def templates(config: RunConfig) -> Templates:
    """The user's templates before the shipped ones."""
    return Templates(Path(config.prompts) if config.prompts else None)


def template_names(config: RunConfig) -> tuple[str, ...]:
    """The templates that a run may use: of its kind of units, and those of the agent only where it is on."""
    own = [name for name in VARIABLES if (name in FEATURE_TEMPLATES) == bool(config.units)]
    used = [name for name in own if config.agent_plan.on or not name.startswith(AGENT_TEMPLATES)]
    return tuple(dict.fromkeys([*used, REPAIR]))


def saved_prompting(folder: Path, given: Mapping[str, object]) -> tuple[RunConfig, Capabilities]:
    """The config of a run on disk with `given` in place of its own, and its server as far as it is known."""
    saved = read_json(folder / "config.json").get("config", {})
    try:
        config = RunConfig.model_validate({**saved, **given})
    except ValidationError as error:
        raise BadInput(f"{folder / 'config.json'} is not of this version ({error.errors()[0]['msg']}).") from None
    try:
        return config, Capabilities.model_validate_json((folder / SERVER_FILE).read_bytes())
    except (OSError, ValidationError):
        return config, Capabilities()


def language_settings(config: RunConfig) -> LanguageSettings:
    return LanguageSettings(config.max_reply_tokens, config.temperature, config.seed, config.instruction)


async def _with_server(
    run: RunFolder, plan: TalkPlan, state: Talk, session: ChatSession, progress: Progress
) -> LlmScoring[Head]:
    source = templates(plan.config)
    asked = language_settings(plan.config)
    explainer = LanguageExplainer(session.chat, session.capabilities, source, asked, used_up(run, Head), session.room)
    await _describe(run, explainer, plan, state, progress)
    if plan.lab is not None:
        await _loop(run, plan, plan.lab, state, session, progress)
    described = {
        head: e.outcome
        for head, e in sorted(state.descriptions.items())
        if isinstance(e.outcome, Description) and not e.outcome.abstained
    }
    asker = Asker(session.chat, session.capabilities, source, plan.config.seed)
    desks = head_desks(plan.config, plan.model.strings, plan.items)

    def controls(head: Head, scorer: str, guess: Description | Failure | None) -> Controls:
        return controls_of(head, scorer, described, guess, plan.config.seed)

    scoring = LlmScoring(plan.config, asker, plan.heads, desks, described, pace(plan.settings), controls)
    state.notes += await score_with_llm(scoring, state.scored, progress)
    state.notes += await repeat_judge(scoring, state.scored, progress)
    return scoring


async def _loop(
    run: RunFolder, plan: TalkPlan, data: LabData, state: Talk, session: ChatSession, progress: Progress
) -> None:
    """Replace the one-shot descriptions by what the agent makes of them."""
    evidence = {head: plan.collected.evidence[head] for head in plan.heads}

    def laboratory(head: Head) -> Laboratory:
        return Laboratory(plan.model, head, evidence[head], data)

    study = Study(HEADS, evidence, laboratory, LanguageExplainer)
    asking = Asking(run, plan.config, plan.settings, session, templates(plan.config), pace(plan.settings))
    await run_study(study, asking, state, progress)


async def _describe(run: RunFolder, explainer: Explainer, plan: TalkPlan, state: Talk, progress: Progress) -> None:
    async def explain(head: Head) -> Explanation:
        return await explainer.explain(plan.collected.evidence[head])

    await describe_units(run, explain, plan.heads, state.descriptions, progress, pace(plan.settings))


def pace(settings: Settings) -> Pace:
    """How many requests run at once, and how long those under way may take after a stop."""
    return Pace(settings.concurrency, settings.timeout)
