"""The part of a run that may talk to a language model: descriptions and scores, in the one event loop of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from autointerp.chat import SERVER_FILE, ChatOptions, chat_session
from autointerp.chat.session import ChatSession
from autointerp.config import RunConfig, Settings
from autointerp.errors import BadInput
from autointerp.evidence.collect import Collected, Progress
from autointerp.explain import DetectorExplainer, Explainer, Explanation, LanguageExplainer
from autointerp.explain.language import LanguageSettings
from autointerp.llm import ClientOptions
from autointerp.model import LanguageModel
from autointerp.pipeline.describing import Pace, describe_heads, used_up
from autointerp.pipeline.llm_scores import Items, LlmScoring, Scored, score_with_llm
from autointerp.prompting import Templates
from autointerp.records import Description, Head
from autointerp.report.folder import read_json
from autointerp.scoring.asking import Asker
from autointerp.store import CallLog, RequestCache, RunFolder

CACHE = "requests.sqlite"


@dataclass(frozen=True)
class TalkPlan:
    """Everything the event loop needs, made before it starts."""

    config: RunConfig
    settings: Settings
    model: LanguageModel
    collected: Collected
    heads: Sequence[Head]
    items: Items


@dataclass
class Talk:
    """What came out: descriptions, scores of the scorers that ask, and what it cost."""

    descriptions: dict[Head, Explanation]
    scored: Scored = field(default_factory=dict)
    cost_usd: float | None = None
    notes: list[str] = field(default_factory=list)


async def try_server(run: RunFolder, config: RunConfig, settings: Settings) -> None:
    """Connect once and find out what the server can do; the findings are kept. Raises ServerError or BadInput."""
    log = CallLog(run)
    with RequestCache(run.root.parent / CACHE, run.run_id) as cache:
        async with chat_session(chat_options(config, settings, log), cache, log):
            pass


async def talk(run: RunFolder, plan: TalkPlan, state: Talk, progress: Progress) -> None:
    """Describe all heads and ask the LLM for their scores; `state` fills as it goes: what was paid for is kept."""
    if plan.config.explainer != "llm":
        await _describe(run, DetectorExplainer(), plan, state, progress)
        return
    log = CallLog(run)
    with RequestCache(run.root.parent / CACHE, run.run_id) as cache:
        async with chat_session(chat_options(plan.config, plan.settings, log), cache, log) as session:
            state.notes += session.notes
            run.write_json(SERVER_FILE, session.capabilities)
            try:
                await _with_server(run, plan, state, session, progress)
            finally:
                state.cost_usd = session.budget.cost


def chat_options(config: RunConfig, settings: Settings, log: CallLog | None = None) -> ChatOptions:
    """The chat model that a run or `check-server` talks to."""
    client = ClientOptions(
        base_url=settings.base_url or config.base_url,
        api_key=settings.api_key.get_secret_value() if settings.api_key else "",
        timeout=settings.timeout,
        retry_base=settings.retry_base,
    )
    return ChatOptions(
        llm=config.llm,
        client=client,
        concurrency=settings.concurrency,
        usd=settings.budget_usd,
        tokens=settings.budget_tokens,
        prices=(settings.price_input, settings.price_output),
        spent=(0, 0) if log is None else log.tokens_used,
    )


def templates(config: RunConfig) -> Templates:
    """The user's templates before the shipped ones."""
    return Templates(Path(config.prompts) if config.prompts else None)


def saved_prompting(folder: Path, given: Mapping[str, object]) -> tuple[RunConfig, int | None]:
    """The config of a run on disk with `given` in place of its own, and the context of its server where it is known."""
    saved = read_json(folder / "config.json").get("config", {})
    try:
        config = RunConfig.model_validate({**saved, **given})
    except ValidationError as error:
        raise BadInput(f"{folder / 'config.json'} is not of this version ({error.errors()[0]['msg']}).") from None
    context = read_json(folder / SERVER_FILE).get("context")
    return config, context if isinstance(context, int) else None


def language_settings(config: RunConfig) -> LanguageSettings:
    return LanguageSettings(config.max_reply_tokens, config.temperature, config.seed, config.instruction)


async def _with_server(run: RunFolder, plan: TalkPlan, state: Talk, session: ChatSession, progress: Progress) -> None:
    source = templates(plan.config)
    asked = language_settings(plan.config)
    explainer = LanguageExplainer(session.chat, session.capabilities, source, asked, used_up(run))
    await _describe(run, explainer, plan, state, progress)
    described = {
        head: e.outcome
        for head, e in sorted(state.descriptions.items())
        if isinstance(e.outcome, Description) and not e.outcome.abstained
    }
    asker = Asker(session.chat, session.capabilities, source, plan.config.seed)
    strings, pace = plan.model.strings, _pace(plan.settings)
    scoring = LlmScoring(plan.config, asker, strings, plan.heads, plan.items, described, pace)
    state.notes += await score_with_llm(scoring, state.scored, progress)


async def _describe(run: RunFolder, explainer: Explainer, plan: TalkPlan, state: Talk, progress: Progress) -> None:
    await describe_heads(run, explainer, plan.collected, plan.heads, state.descriptions, progress, _pace(plan.settings))


def _pace(settings: Settings) -> Pace:
    return Pace(settings.concurrency, settings.timeout)
