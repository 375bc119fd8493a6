"""What is said of a unit and what became of it: descriptions, failures, scores with their controls, verdicts.

The same records serve heads, neurons and latents.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from autointerp.record_base import Real, Record

LABELS: tuple[str, ...] = (
    "previous_token", "current_token", "first_token", "duplicate_token", "induction", "fixed_offset",
    "local_context", "punctuation", "delimiter_matching", "name_mover", "copying", "copy_suppression",
    "successor", "s_inhibition", "token_class", "other", "unclear",
)  # fmt: skip
Split = Literal["explain", "select", "test"]
Domain = Literal["text", "repeats"]
Status = Literal["described", "abstained", "failed"]
Verdict = Literal["supported", "partly", "refuted", "unscored"]


class Description(Record):
    """What an explainer says of a unit; `abstained` means that it found no claim worth making."""

    summary: str
    looks_at: str
    writes: str
    label: str
    labels: tuple[str, ...] = ()
    predicate: str | None = None
    domain: Domain = "text"
    conditions: str = ""
    counterexamples: str = ""
    confidence: Real = 0.0
    abstained: bool = False
    raises: tuple[str, ...] = ()  # of a neuron or latent: next tokens that it is said to make likelier
    lowers: tuple[str, ...] = ()


class Failure(Record):
    """A step that did not work for this unit: counted in every denominator and shown, never scored."""

    stage: str
    reason: str
    raw: str = ""


class Control(Record):
    """A null or a simple rival scored on the same items; `difference` is score minus control, paired."""

    name: str
    kind: Literal["null", "rival"]
    value: Real
    difference: Real
    low: Real
    high: Real
    beaten: bool
    same_rule: bool = False  # the rival predicts the same pairs (IoU >= .9): the description is that rule
    detail: str = ""
    p: Real = float("nan")  # one-sided, of a difference of 0 or less, from the paired resamples


class Score(Record):
    """A metric on held-out items, with interval, chance line and controls."""

    scorer: str
    metric: str
    domain: str
    value: Real
    low: Real
    high: Real
    n_items: int
    n_docs: int
    prevalence: Real
    chance: Real
    controls: tuple[Control, ...] = ()
    state: str = ""  # e.g. `underpowered`
    details: dict[str, float | int | str | None] = Field(default_factory=dict)

    @property
    def equal_rule(self) -> str:
        """The simple rule that the description is: it has no margin over rivals then (scoring_validity rule 10). Empty
        where it is none, and where another rival is better than both: that one decides."""
        if any(c.kind == "rival" and not c.same_rule and c.high < 0 for c in self.controls):
            return ""
        return next((c.name for c in self.controls if c.same_rule), "")


class Unscored(Record):
    """A scorer that gives no number for this head, and why."""

    scorer: str
    reason: str


class Provenance(Record):
    """How a description came about: the prompt that was sent, the raw reply, the settings."""

    explainer: str
    model: str = ""
    template: str = ""
    template_hash: str = ""
    request_hashes: tuple[str, ...] = ()
    prompt: tuple[dict[str, str], ...] = ()
    raw_replies: tuple[str, ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0
    repairs: int = 0


class Judgement(Record):
    """The headline of a head: the verdict of scoring_validity rule 26 and the numbers behind it."""

    verdict: Verdict
    reason: str
    metric: str | None = None
    domain: str | None = None
    score: float | None = None
    score_low: float | None = None
    score_high: float | None = None
    chance: float | None = None
    n_items: int = 0
    n_docs: int = 0
    margin: float | None = None
    margin_low: float | None = None
    margin_high: float | None = None
    compared_with: str = ""
    coverage: float | None = None
