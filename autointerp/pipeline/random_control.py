"""The whole pipeline on a model of the same shape that learned nothing (scoring_validity rule 10).

1. The twin has fresh random weights; 20 of its heads are drawn (all, where there are fewer).
2. Their evidence is collected on the first windows of the explain split, one a document. It is kept in memory alone,
   so that it cannot be taken for the run's.
3. The detectors describe them, whatever explainer the run uses: no call is made.
4. Descriptions are scored on the run's held-out rows by the predicate score with all its controls (the null of random
   weights is another twin), and those with a margin above 0 are ablated, which the verdict needs.

The share of heads with a margin above 0 says how often the run would find something where nothing was learned. It
follows from the seed; the numbers are kept in the run folder and not taken twice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from autointerp.config import RunConfig
from autointerp.evidence.collect import Collected, CollectSpec, ExplainWindows, Progress, collect, first_windows
from autointerp.explain.detectors import describe
from autointerp.model import LanguageModel
from autointerp.pipeline.inputs import Inputs
from autointerp.pipeline.suite_inputs import suite_spec
from autointerp.records import Description, Head, Judgement, Score, Unscored
from autointerp.report.folder import read_json
from autointerp.scoring.random_weights import Twin, twin_of
from autointerp.scoring.suite import HeadScores, HeldOut, Suite
from autointerp.scoring.verdict import judge
from autointerp.stats.bootstrap import clopper_pearson
from autointerp.store import RunFolder

FILE = "cache/random_weights.json"
HEADS, WINDOWS = 20, 48
OTHER_DRAW = 20_000  # added to the run's seed: the twin's own nulls must not be the twin itself


@dataclass(frozen=True)
class RandomWeights:
    """How many of `n` units of a model with random weights were described, came out `supported`, and had a margin
    whose interval lies above 0; `share` of the last, with its exact 95 % interval."""

    n: int
    described: int
    abstained: int
    supported: int
    margin_above_0: int
    share: float
    low: float
    high: float
    explainer: str = "detectors"
    seconds: float = 0.0


class RandomControl:
    """The control of one run."""

    def __init__(
        self, inputs: Inputs, held_out: HeldOut, config: RunConfig, batch_size: int, progress: Progress
    ) -> None:
        self._inputs, self._held_out, self._config = inputs, held_out, config
        self._batch_size, self._progress = batch_size, progress

    def facts(self, run: RunFolder, twin: Twin) -> Mapping[str, object]:
        """What `run.json` says of it: the fields of `RandomWeights`, or the reason why there are none."""
        return facts_of(run, twin, self.measured)

    def measured(self, twin: LanguageModel) -> RandomWeights:
        """Collect, describe and score heads of `twin`."""
        started = time.monotonic()
        self._progress("the same on a model with random weights", 0, 0)
        heads = drawn_heads(twin, self._config.seed)
        collected = self._collected(twin, heads)
        said = {head: describe(collected.evidence[head]) for head in heads}
        described = {head: d for head, d in said.items() if not d.abstained}
        judged = self._judged(twin, collected, described) if described else {}
        return counted([judged.get(head) for head in heads], len(described), started)

    def _collected(self, twin: LanguageModel, heads: tuple[Head, ...]) -> Collected:
        explain = few_windows(self._inputs.explain_windows(), WINDOWS)
        return collect(twin, explain, heads, CollectSpec(self._config.seed + OTHER_DRAW, self._batch_size), silent)

    def _judged(
        self, twin: LanguageModel, collected: Collected, described: Mapping[Head, Description]
    ) -> dict[Head, Judgement]:
        config = self._config.model_copy(update={"scorers": ("predicate",)})
        spec = suite_spec(replace(self._inputs, model=twin), collected, self._held_out, config, self._batch_size)
        spec = replace(spec, twin=twin_of(twin, self._config.seed + OTHER_DRAW))
        scores = Suite(spec, silent).score(described, {})
        judged = {head: _judge(described[head], scores[head]) for head in described}
        above = {h: described[h] for h, j in judged.items() if j.margin_low is not None and j.margin_low > 0}
        ablated = Suite(replace(spec, scorers=("ablation",)), silent).score(above, {}) if above else {}
        for head, found in ablated.items():
            judged[head] = _judge(described[head], replace(scores[head], effect=found.effect))
        return judged


def facts_of(run: RunFolder, twin: Twin, measured: Callable[[LanguageModel], RandomWeights]) -> Mapping[str, object]:
    """The control of a run, measured once and kept in its folder; the reason where there is no twin."""
    held = read_json(run.path(FILE))
    if held:
        return held
    if isinstance(twin, Unscored):
        return {"reason": twin.reason}
    found: dict[str, object] = asdict(measured(twin))
    if not found["n"]:  # a share of nothing would read as a clean result
        found = {"reason": "no unit of the model with random weights is alive and not dense"}
    run.path("cache").mkdir(parents=True, exist_ok=True)
    run.write_text(FILE, json.dumps(found))
    return found


def counted(judged: Sequence[Judgement | None], described: int, started: float) -> RandomWeights:
    """The counts over all units of the control, None for those that were not described; `started`: monotonic."""
    above = sum(j is not None and j.margin_low is not None and j.margin_low > 0 for j in judged)
    low, high = clopper_pearson(above, len(judged)) if judged else (float("nan"), float("nan"))
    share = above / len(judged) if judged else float("nan")
    return RandomWeights(
        n=len(judged), described=described, abstained=len(judged) - described,
        supported=sum(j is not None and j.verdict == "supported" for j in judged), margin_above_0=above,
        share=share, low=low, high=high, seconds=round(time.monotonic() - started, 2),
    )  # fmt: skip


def drawn_heads(model: LanguageModel, seed: int) -> tuple[Head, ...]:
    """HEADS heads of a model, or all of them, ascending."""
    every = [Head(layer=layer, index=index) for layer in range(model.n_layers) for index in range(model.n_heads)]
    order = np.random.default_rng([seed, OTHER_DRAW]).permutation(len(every))
    return tuple(sorted(every[i] for i in order[:HEADS]))


def few_windows(explain: ExplainWindows, n: int) -> ExplainWindows:
    """At most n windows of the split, of as many documents as possible."""
    return replace(explain, numbers=explain.numbers[first_windows(explain.cluster[explain.numbers], n)])


def _judge(said: Description, scores: HeadScores) -> Judgement:
    numbers: tuple[Score, ...] = tuple(scores.scores)
    return judge(said, numbers, tuple(scores.unscored), scores.effect)


def silent(stage: str, done: int, of: int) -> None:
    """The stages inside would read as those of the run."""
