"""What the scorers of a run are made from: held-out rows, means and tables learned on the explain split."""

from __future__ import annotations

from autointerp.config import RunConfig
from autointerp.evidence.collect import Collected
from autointerp.pipeline.held_out import ablation_rows, explain_rows
from autointerp.pipeline.inputs import Inputs
from autointerp.scoring.causal import INSIDE
from autointerp.scoring.head_values import ExplainMeans, value_means
from autointerp.scoring.suite import CausalInputs, HeldOut, SuiteSpec
from autointerp.scoring.token_identity import learn_identity

MEAN_WINDOWS = 200


def suite_spec(
    inputs: Inputs, collected: Collected, held_out: HeldOut, config: RunConfig, batch_size: int
) -> SuiteSpec:
    """The spec for `config.scorers`; the model reads explain windows for what they need. No twin in it."""
    wanted = set(config.scorers)
    return SuiteSpec(
        inputs.model,
        held_out,
        ablation_rows(held_out),
        collected.z_mean,
        config.seed,
        batch_size,
        config.scorers,
        learn_identity(inputs.model, explain_rows(inputs), batch_size) if "predicate" in wanted else None,
        _causal(inputs, collected, held_out, batch_size) if INSIDE & wanted else None,
    )


def _causal(inputs: Inputs, collected: Collected, held_out: HeldOut, batch_size: int) -> CausalInputs:
    """Mean values of the explain split, for the longest rows that are scored."""
    rows = explain_rows(inputs)
    batches = (
        (rows.ids[start : start + batch_size], rows.lengths[start : start + batch_size])
        for start in range(0, min(len(rows.ids), MEAN_WINDOWS), batch_size)
    )
    size = max(test.ids.shape[1] for test in held_out.test.values())
    means = ExplainMeans(collected.z_mean, value_means(inputs.model, batches, size))
    return CausalInputs(means, collected.pool)
