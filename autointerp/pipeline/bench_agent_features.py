"""`bench agent --units features`: one shot against the loop on the neurons of planted feature models.

1. A neuron counts where its first label is true of it, its rule finds where it is active on held-out text (F1 at least
   RULE_F1), and its verdict is right: supported where the model depends on it, not supported where nothing does.
2. One without a function (noise) counts where none is named. Of a mix, which no simple rule holds, an abstention and
   any verdict but `supported` are right. Dead and dense neurons are not asked about.
3. Latents of the planted dictionary read the same directions as the neurons; they would count the same answers twice.
"""

from __future__ import annotations

from autointerp.config import RunConfig
from autointerp.pipeline.bench_agent import Ground
from autointerp.pipeline.bench_features import feature_sources, neuron_key
from autointerp.pipeline.bench_features_report import MIX
from autointerp.pipeline.bench_metrics import GradedHead
from autointerp.pipeline.feature_collecting import EVIDENCE, TABLE
from autointerp.pipeline.feature_job import run_feature_job
from autointerp.pipeline.random_control import FILE as RANDOM_WEIGHTS
from autointerp.planted.features import FEATURE_SPEC
from autointerp.planted.heads import Truth
from autointerp.planted.model import SPEC

RULE_F1 = 0.9
FEATURE_TRAPS = ("one token of a set", "a token without the one before it", "one of two things")


def neurons_ground(config: RunConfig, seed: int) -> Ground:
    """The neurons of the planted feature model of a seed, or those that the config selects."""
    fixed = {"model": f"{FEATURE_SPEC}:{seed}", "corpus": (SPEC,), "sample": 0, "units": "neurons"}
    return Ground(
        config=config.model_copy(update=fixed),
        sources=feature_sources(seed),
        truths={unit: truth for unit, truth in neuron_key(seed).items()},
        run=run_feature_job,
        kept=(EVIDENCE, TABLE, RANDOM_WEIGHTS),
        right=neuron_is_right,
        trap=feature_trap_of,
    )


def neuron_is_right(unit: GradedHead) -> bool:
    """The right label, a rule that finds where it is active, and the right verdict."""
    if unit.kind == MIX:
        return unit.verdict != "supported"
    if not unit.planted:
        return unit.abstained
    if not unit.right or not unit.said_f1 >= RULE_F1:
        return False
    return (unit.verdict == "supported") == unit.matters


def feature_trap_of(truth: Truth) -> str:
    """The planted trap that a neuron is, idle ones by what they detect; empty for the others."""
    if len(truth.labels) > 1:
        return FEATURE_TRAPS[2]
    return {"token_set": FEATURE_TRAPS[0], "token_pair": FEATURE_TRAPS[1]}.get("".join(truth.labels), "")
