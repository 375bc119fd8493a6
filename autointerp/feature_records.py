"""The nouns of neurons and latents: what a unit does in text (evidence), and all that a run knows of it (report).

Conventions: `a` is a unit's activation at one position, made so that larger means more of what the unit stands for
(`sign` turns a neuron whose strongest activations are negative); a unit is *active* where `a >= ACTIVE * reference`
and *at rest* where `a <= RESTING * reference`. Positions are 0-based over the ids really fed, BOS included.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from autointerp.claim_records import (
    Description,
    Failure,
    Judgement,
    Provenance,
    Score,
    Status,
    Unscored,
)
from autointerp.loop_records import Transcript
from autointerp.record_base import Feature, Interval, Real, Record, TokenValue

ACTIVE, RESTING = 0.3, 0.02
"""Shares of the reference activation from which a unit counts as active, and up to which as at rest."""

FEATURE_LABELS: tuple[str, ...] = (
    "token", "token_set", "token_class", "token_pair", "context", "position", "repetition", "other", "unclear",
)  # fmt: skip
UnitState = Literal["ok", "dead", "dense"]
FeatureStratum = Literal["top", "quantile", "random", "contrast"]


ABLATED: tuple[FeatureStratum, ...] = ("top", "quantile")
"""Strata of the examples that are run without the unit; elsewhere it rests, and its mean is nearly what it does."""


class TokenActivity(Record):
    """A token's part of a unit's total activation, beside its share of the text, and how often it is active there."""

    token: str
    part: Real
    base_rate: Real
    active: int  # rows with this token where the unit is active
    rows: int  # rows with this token


class FeatureStats(Record):
    """How a unit activates over the explain split. `reference` is the mean of its 16 highest document maxima."""

    n_rows: int
    n_docs: int
    density: Real  # share of rows with a > 0
    active_share: Interval  # share of rows where the unit is active, document bootstrap
    sign: Literal[-1, 1]
    reference: Real
    maximum: Real
    mean: Real
    quantiles: tuple[Real, ...]  # of a where it is above 0, one row a document: 1 10 25 50 75 90 99 %
    state: UnitState
    top_tokens: tuple[TokenActivity, ...] = ()


class RuleReading(Record):
    """A simple rule about a position: when is the unit active?

    Learned on half of the explain documents; all numbers are of the other half, those of shuffled activations too.
    """

    name: str  # a label of FEATURE_LABELS
    predicate: str
    f1: Real
    precision: Real
    recall: Real
    coverage: Real  # share of the activation in rows that the rule names
    n_active: int  # active rows
    n_predicted: int
    null_max: Real  # the best F1 of such a rule on shuffled activations
    fires: bool
    detail: dict[str, str | float | int] = Field(default_factory=dict)


class FeatureReadout(Record):
    """What a unit's direction does to the vocabulary, straight through the final norm (scale frozen at its median)."""

    up: tuple[TokenValue, ...]  # centred logits at the reference activation
    down: tuple[TokenValue, ...]
    random_max: Real  # the largest effect on a token of a random direction of the same norm
    head_shares: tuple[Real, ...] = ()  # of a latent read from concatenated z: each head's share of its direction


class FeatureExample(Record):
    """One position of the explain split: the text around it, with the unit's activation at each token."""

    doc_id: str
    window: int
    dst: int
    stratum: FeatureStratum
    tier: str | None  # of a contrast row: `token` same token, `neighbour` where the most alike units are active
    weight: Real  # inverse inclusion probability of random rows, 1 elsewhere
    tokens: tuple[str, ...]  # the whole fed row
    activations: tuple[Real, ...]  # a / reference at each of `tokens`
    control: tuple[int, ...] = ()  # places in `tokens` of control tokens, which are no rows
    activation: Real  # a at `dst`
    quantile: Real  # of it among random rows, in [0, 1]
    next_token: str | None
    abl_dlogp_next: Real = float("nan")  # log p(next) lost when a is replaced by its mean, nats
    abl_kl: Real = float("nan")
    lowered: tuple[TokenValue, ...] = ()  # tokens that lose most centred logit without it
    raised: tuple[TokenValue, ...] = ()


class LensWords(Record):
    """What one lens reads in a unit's direction, beside its controls."""

    lens: Literal["entity", "selfie"]
    text: str
    controls: tuple[str, ...]
    specific: bool
    detail: str = ""


class FeatureEvidence(Record):
    """All that an explainer may see of one unit; made from the explain split only."""

    unit: Feature
    stats: FeatureStats
    rules: tuple[RuleReading, ...]
    readout: FeatureReadout | None  # None where the direction cannot be read as logits (see `notes`)
    examples: tuple[FeatureExample, ...]
    neighbours: tuple[Feature, ...] = ()  # units with the most similar directions
    lenses: tuple[LensWords, ...] = ()
    notes: tuple[str, ...] = ()


class FeatureReport(Record):
    """A line of `features.jsonl`: everything the run knows of one unit."""

    unit: Feature
    status: Status
    evidence: FeatureEvidence
    description: Description | None
    failures: tuple[Failure, ...]
    provenance: Provenance
    scores: tuple[Score, ...]
    unscored: tuple[Unscored, ...]
    judgement: Judgement
    ablation_loss: Interval  # nats a token, the unit at its mean everywhere; NaN where it was not measured
    ablation_kl: Interval
    transcript: Transcript | None = None
