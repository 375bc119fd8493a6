"""The nouns: frozen records that pass from one stage to the next and into the run folder. No torch here.

Conventions: `dst` is the query position, `src` the key position, both 0-based over the ids really fed
(BOS included when it is fed). Shares and attentions are in [0, 1], contributions in residual-stream norm,
effects in nats or logits as named, distances in tokens (`dst - src`).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from autointerp.circuit_records import CircuitTest
from autointerp.claim_records import LABELS as LABELS
from autointerp.claim_records import Control as Control
from autointerp.claim_records import Description as Description
from autointerp.claim_records import Domain as Domain
from autointerp.claim_records import Failure as Failure
from autointerp.claim_records import Judgement as Judgement
from autointerp.claim_records import Provenance as Provenance
from autointerp.claim_records import Score as Score
from autointerp.claim_records import Split as Split
from autointerp.claim_records import Status as Status
from autointerp.claim_records import Unscored as Unscored
from autointerp.claim_records import Verdict as Verdict
from autointerp.lens_records import HeadRowReading
from autointerp.loop_records import Experiment as Experiment
from autointerp.loop_records import Hypothesis as Hypothesis
from autointerp.loop_records import Transcript as Transcript
from autointerp.loop_records import Turn as Turn
from autointerp.record_base import Feature as Feature
from autointerp.record_base import Head as Head
from autointerp.record_base import Interval as Interval
from autointerp.record_base import Real as Real
from autointerp.record_base import Record as Record
from autointerp.record_base import TokenValue as TokenValue
from autointerp.record_base import Unit as Unit

Stratum = Literal["top", "quantile", "random", "contrast"]


class Source(Record):
    """One attended source of an example row (attention_evidence section 5).

    `share`: attention renormalised off the sink; `multiple`: share times the number of allowed sources;
    `contribution_share`: attention times write norm, over all sources of the row.
    """

    src: int
    token: str
    distance: int
    attn: Real
    share: Real
    multiple: Real
    contribution: Real
    contribution_share: Real
    position_lift: Real
    column_lift: Real
    around: tuple[str, ...]  # tokens within 4 of the source, in order
    is_self: bool
    is_prev: bool
    is_sink: bool
    dup_of_dst: bool
    dup_norm: bool
    after_dup: bool
    equals_next: bool
    first_occurrence: bool
    n_occurrences: int


class Example(Record):
    """One destination row of one head, from the explain split: what it looked at and what it wrote."""

    doc_id: str
    window: int
    dst: int
    stratum: Stratum
    tier: str | None  # of a contrast row: A same dst token, B same previous token, C any
    weight: Real  # inverse inclusion probability of random rows, 1 elsewhere
    tokens: tuple[str, ...]  # the whole fed row, token strings from ids
    pattern: tuple[Real, ...]  # attention from dst to tokens[0..dst]
    contribution_shares: tuple[Real, ...]
    sources: tuple[Source, ...]
    dst_token: str
    next_token: str | None
    dst_bucket: Literal["first 8", "early", "late"]
    sink_mass: Real
    self_mass: Real
    entropy: Real
    n_allowed: int
    activity: Real
    activity_quantile: Real
    ov_up: tuple[TokenValue, ...]
    ov_down: tuple[TokenValue, ...]
    write_up: tuple[TokenValue, ...]
    write_down: tuple[TokenValue, ...]
    dla_next: Real
    abl_dlogp_next: Real
    abl_kl: Real
    flags: tuple[str, ...] = ()  # `no_write`: the head's whole write is below 1e-6 of the residual's norm


class TokenTotal(Record):
    """A token's part of a head's total contribution, beside its share of the text (the base rate)."""

    token: str
    part: Real
    base_rate: Real


class HeadStats(Record):
    """Document means with 95 % intervals over the explain split (attention_evidence section 3)."""

    n_rows: int
    n_docs: int
    sink_mass: Interval
    self_mass: Interval
    prev_mass: Interval
    entropy: Interval  # normalised, in [0, 1]
    entropy_nats: Interval
    max_share: Interval
    mean_distance: Interval
    low_mass_rows: Interval  # fraction of rows with non-sink mass under tau
    sink_mass_median: Real
    entropy_median: Real
    max_share_median: Real
    distance_median: Real
    distance_buckets: tuple[str, ...]
    distance_histogram: tuple[Real, ...]
    activity_quantiles: tuple[Real, ...]  # 1 10 25 50 75 90 99 %
    top_sources: tuple[TokenTotal, ...]
    top_destinations: tuple[TokenTotal, ...]


class Reading(Record):
    """One detector on one kind of data for one head, against its null (attention_evidence section 6)."""

    name: str
    data: Literal["repeats", "text", "parameters"]
    value: Real
    low: Real
    high: Real
    n: int
    percentile: Real  # rank among all heads of the model, 100 = highest
    null_max: Real  # highest value of any head of a random-weights model, or on shuffled tokens
    lift_over_uniform: Real
    fires: bool
    detail: dict[str, str | float | int] = Field(default_factory=dict)


class Readout(Record):
    """What the head's output circuit does to vocabulary tokens, over the head's own top rows."""

    up: tuple[TokenValue, ...]
    down: tuple[TokenValue, ...]
    copies_source: Real  # mean centred logit effect on the attended token itself, logits
    copies_source_low: Real
    copies_source_high: Real
    n: int


class Evidence(Record):
    """All that an explainer may see of one head; made from the explain split and repeated random tokens only."""

    head: Head
    stats: HeadStats
    readings: tuple[Reading, ...]
    readout: Readout
    examples: tuple[Example, ...]
    notes: tuple[str, ...] = ()  # strata that could not be filled, examples dropped
    lenses: tuple[HeadRowReading, ...] = ()  # of some of the examples, by their names

    def reading(self, name: str, data: str = "repeats") -> Reading | None:
        """The reading of detector `name` on `data`, or None where it was not taken."""
        return next((r for r in self.readings if r.name == name and r.data == data), None)

    def in_words(self, example: Example) -> HeadRowReading | None:
        """What the lenses read at an example's row, or None where they did not."""
        return next((row for row in self.lenses if row.of(example.doc_id, example.window, example.dst)), None)


class GroupEffect(Record):
    """Heads described alike, removed together on the rows of the total effect: logits of the true next token."""

    heads: tuple[Head, ...]
    alike_in: Literal["predicate", "label"]
    total: Interval  # all of them mean-ablated at once
    alone: Interval  # this head
    sum_of_singles: Interval  # each of them alone, added up
    excess: Interval  # total minus sum_of_singles, paired: what they had made up for among themselves


class HeadReport(Record):
    """A line of `heads.jsonl`: everything the run knows of one head."""

    head: Head
    status: Status
    evidence: Evidence
    description: Description | None
    failures: tuple[Failure, ...]
    provenance: Provenance
    scores: tuple[Score, ...]
    unscored: tuple[Unscored, ...]
    judgement: Judgement
    ablation_loss: Interval
    ablation_kl: Interval
    direct_effect: Interval | None = None  # centred logits on the true next token, later heads as they were
    total_effect: Interval | None = None  # the same with everything downstream recomputed, on a sample of the rows
    backed_up: bool = False  # later heads make up for it: the total is far below the direct effect on the same rows
    group_effect: GroupEffect | None = None  # of a head that is backed up, where other heads are described like it
    transcript: Transcript | None = None  # of the agent loop; None where it was off
    circuit: CircuitTest | None = None  # its label in a circuit study of the model, where one was given and defines it
