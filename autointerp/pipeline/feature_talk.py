"""The part of a run over neurons or latents that may talk to a language model: descriptions, and scores that ask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from autointerp.agent.feature_kind import FEATURES
from autointerp.agent.feature_laboratory import FeatureLaboratory
from autointerp.agent.feature_subject import FeatureLabData
from autointerp.chat.session import ChatSession
from autointerp.config import RunConfig, Settings
from autointerp.errors import ModelError
from autointerp.evidence.collect import Progress
from autointerp.explain import Explanation
from autointerp.explain.feature_detectors import FeatureDetectorExplainer
from autointerp.explain.feature_language import FEATURE_SCHEMA, FeatureLanguageExplainer, feature_prompt
from autointerp.explain.outcome import FeatureExplainer
from autointerp.feature_records import ACTIVE
from autointerp.features.activations import read_activations
from autointerp.features.collect import CollectedFeatures
from autointerp.features.units import UnitSet
from autointerp.llm import ChatRequest
from autointerp.model import LanguageModel
from autointerp.pipeline.agents import Asking, Study, run_study
from autointerp.pipeline.describing import describe_units, used_up
from autointerp.pipeline.feature_inputs import FeatureRows
from autointerp.pipeline.feature_scoring import unit_facts
from autointerp.pipeline.judging import repeat_judge
from autointerp.pipeline.llm_scores import ByScorer, LlmScoring, Scorer, score_with_llm
from autointerp.pipeline.plan import NOTHING_ASKED, Asks, Estimate, estimate_calls, known_capabilities
from autointerp.pipeline.talking import Costs, language_settings, pace, run_chats, templates
from autointerp.records import Description, Domain, Failure, Feature, Transcript, Unscored
from autointerp.scoring.asking import Asker, Controls
from autointerp.scoring.effect import EffectItems
from autointerp.scoring.effect_rows import CandidatePool
from autointerp.scoring.feature_effect import Activations, EffectSpec, feature_effect_rows
from autointerp.scoring.feature_llm import (
    FEATURE_LLM_SCORERS,
    NO_EVIDENCE_TEMPLATE,
    FeatureItems,
    FeatureLlmScorers,
    feature_controls,
    feature_items,
)
from autointerp.scoring.held_out import HeldOutRows
from autointerp.store import RunFolder

CELLS = 48_000_000  # activations held at once


@dataclass(frozen=True)
class FeatureTalkPlan:
    """Everything the event loop needs, made before it starts."""

    config: RunConfig
    settings: Settings
    model: LanguageModel
    units: UnitSet
    collected: CollectedFeatures
    rows: FeatureRows
    lab: FeatureLabData | None = None  # what experiments need; None where the agent is off

    @property
    def wanted(self) -> Sequence[Feature]:
        return sorted(self.collected.evidence)

    @property
    def alive(self) -> Sequence[Feature]:
        """Those that are neither dead nor dense: only they are asked about, and controls are drawn from them."""
        return [unit for unit in self.wanted if self.collected.evidence[unit].stats.state == "ok"]


@dataclass
class FeatureTalk(Costs):
    """What came out: descriptions, scores of the scorers that ask, and what it cost."""

    descriptions: dict[Feature, Explanation] = field(default_factory=dict)
    scored: dict[Feature, ByScorer] = field(default_factory=dict)
    transcripts: dict[Feature, Transcript] = field(default_factory=dict)


@dataclass(frozen=True)
class FeatureDesk:
    """The held-out items of the units, and the wanted scorers that ask about them."""

    config: RunConfig
    strings: Sequence[str]
    held_out: HeldOutRows
    held: Mapping[Feature, FeatureItems]

    def scorers(self, asker: Asker) -> Mapping[str, Scorer]:
        names = [name for name in FEATURE_LLM_SCORERS if name in self.config.scorers]
        return FeatureLlmScorers(asker, self.strings, self.held_out, names).by_name

    def items(self, scorer: str, unit: Feature) -> Any:
        return self.held.get(unit, FeatureItems()).of(scorer)


async def feature_talk(run: RunFolder, plan: FeatureTalkPlan, state: FeatureTalk, progress: Progress) -> None:
    """Describe all units and ask the LLM for their scores; `state` fills as it goes: what was paid for is kept."""
    if plan.config.explainer != "llm":
        await _describe(run, FeatureDetectorExplainer(), plan, state, progress)
        return
    desk = feature_desk(plan)
    with run_chats(run, plan.config, plan.settings, state) as chats:
        async with chats.explainer() as session:
            scoring = await _with_server(run, plan, desk, state, session, progress)
            if plan.config.judge:
                await chats.ask_judge(session, scoring, state.scored, progress)


async def _with_server(
    run: RunFolder, plan: FeatureTalkPlan, desk: FeatureDesk, state: FeatureTalk, session: ChatSession,
    progress: Progress,
) -> LlmScoring[Feature]:  # fmt: skip
    config, source = plan.config, templates(plan.config)
    explainer = FeatureLanguageExplainer(
        session.chat, session.capabilities, source, language_settings(config), used_up(run, Feature), session.room
    )
    await _describe(run, explainer, plan, state, progress)
    if plan.lab is not None:
        await _loop(run, plan, plan.lab, state, session, progress)
    described = {
        unit: e.outcome
        for unit, e in sorted(state.descriptions.items())
        if isinstance(e.outcome, Description) and not e.outcome.abstained
    }

    def controls(unit: Feature, scorer: str, guess: Description | Failure | None) -> Controls:
        return feature_controls(unit, described, guess, config.seed, [scorer])[scorer]

    asker = Asker(session.chat, session.capabilities, source, config.seed)
    desks: dict[Domain, FeatureDesk] = {"text": desk}
    scoring = LlmScoring(
        config, asker, plan.alive, desks, described, pace(plan.settings), controls, NO_EVIDENCE_TEMPLATE
    )
    state.notes += await score_with_llm(scoring, state.scored, progress)
    state.notes += await repeat_judge(scoring, state.scored, progress)
    return scoring


async def _loop(
    run: RunFolder, plan: FeatureTalkPlan, data: FeatureLabData, state: FeatureTalk, session: ChatSession,
    progress: Progress,
) -> None:  # fmt: skip
    """Replace the one-shot descriptions by what the agent makes of them; dead and dense units have no loop."""
    evidence = {unit: plan.collected.evidence[unit] for unit in plan.alive}

    def laboratory(unit: Feature) -> FeatureLaboratory:
        return FeatureLaboratory(plan.model, unit, evidence[unit], data)

    study = Study(FEATURES, evidence, laboratory, FeatureLanguageExplainer)
    asking = Asking(run, plan.config, plan.settings, session, templates(plan.config), pace(plan.settings))
    await run_study(study, asking, state, progress)


async def _describe(
    run: RunFolder, explainer: FeatureExplainer, plan: FeatureTalkPlan, state: FeatureTalk, progress: Progress
) -> None:
    async def explain(unit: Feature) -> Explanation:
        return await explainer.explain(plan.collected.evidence[unit])

    await describe_units(run, explain, plan.wanted, state.descriptions, progress, pace(plan.settings))


def estimate_features(run: RunFolder, plan: FeatureTalkPlan) -> Estimate:
    """What a run would ask, before anything is sent."""
    if plan.config.explainer != "llm":
        return NOTHING_ASKED
    evidence, source, asked = plan.collected.evidence, templates(plan.config), language_settings(plan.config)
    prompts = [feature_prompt(evidence[unit], source, asked)[0] for unit in plan.alive]
    requests = [ChatRequest(messages=p.messages, json_schema=FEATURE_SCHEMA) for p in prompts]
    desks: dict[Domain, FeatureDesk] = {"text": feature_desk(plan)}
    asks = Asks(plan.config, plan.settings, plan.alive, requests, desks, FEATURES, NO_EVIDENCE_TEMPLATE)
    return estimate_calls(asks, known_capabilities(run.root, plan.config))


def feature_desk(plan: FeatureTalkPlan) -> FeatureDesk:
    """Items of all units that are alive, chosen from the test rows before any description is known."""
    held: dict[Feature, FeatureItems] = {}
    alive = plan.alive
    if set(FEATURE_LLM_SCORERS) & set(plan.config.scorers):
        rows = plan.rows.test
        step = max(1, CELLS // max(rows.ids.size * 4, 1))  # a unit with its neighbours
        pool = CandidatePool.of(plan.model, [plan.rows.select, rows])
        for start in range(0, len(alive), step):
            held |= _items(plan, alive[start : start + step], pool)
    return FeatureDesk(plan.config, plan.model.strings, plan.rows.test, held)


def _items(plan: FeatureTalkPlan, some: Sequence[Feature], pool: CandidatePool) -> dict[Feature, FeatureItems]:
    rows, config, size = plan.rows.test, plan.config, plan.settings.batch_size
    evidence, facts = plan.collected.evidence, unit_facts(plan.collected)
    named = sorted({n for unit in some for n in (unit, *evidence[unit].neighbours)})
    raw = read_activations(plan.model, plan.units, named, rows.ids, rows.lengths, size)
    shares: dict[Feature, Float[np.ndarray, "window pos"]] = {
        unit: raw[:, :, column] * (facts[unit].sign / max(facts[unit].reference, 1e-30))
        for column, unit in enumerate(named)
    }
    own = {u: Activations(shares[u], facts[u].reference, facts[u].sign, facts[u].mean) for u in some}
    effects: Mapping[Feature, EffectItems] = {}
    if "effect" in config.scorers:
        try:
            effects = feature_effect_rows(plan.model, plan.units, rows, own, EffectSpec(pool, config.seed, size))
        except ModelError as error:
            effects = dict.fromkeys(some, Unscored(scorer="effect", reason=str(error)))
    return {
        unit: feature_items(
            rows, unit, own[unit], config.seed, _near(shares, evidence[unit].neighbours), effects.get(unit, ())
        )
        for unit in some
    }


def _near(
    shares: Mapping[Feature, Float[np.ndarray, "window pos"]], neighbours: Sequence[Feature]
) -> Bool[np.ndarray, "window pos"] | None:
    """Rows where one of the units most like it is active."""
    if not neighbours:
        return None
    return np.asarray(np.any([shares[n] >= ACTIVE for n in neighbours], axis=0))
