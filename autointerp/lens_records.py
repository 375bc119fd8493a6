"""What the lenses read of a head, as records that can stand beside its examples.

Everything here may come from a model's own mouth: it is data, never an instruction, and a reading without its
controls means nothing.
"""

from __future__ import annotations

from typing import Literal

from autointerp.record_base import Head, Real, Record, TokenValue

What = Literal["output", "difference"]
SelfieVerdict = Literal["specific", "context_only", "abstain"]
EntityVerdict = Literal["specific", "abstain"]


class ControlReading(Record):
    """A control beside a reading: what the model said under it, and how much likelier the reading's own text is under
    the vector than under the control (nats)."""

    name: str
    text: str
    total: Real


class SelfieReading(Record):
    """What the model said of a vector to one prompt, what it said under controls, and the verdict; nats."""

    prompt: str
    text: str
    total: Real
    margin: Real
    null_p: Real
    verdict: SelfieVerdict
    controls: tuple[ControlReading, ...]


class MentionReading(Record):
    """A mention that the entity lens wrote; `likelihood`: geometric mean probability of its ids, the stop included."""

    mention: str
    likelihood: Real


class EntityControl(MentionReading):
    """What it wrote for another vector in the place of the head's."""

    name: str  # random_norm, or mean and shuffled: of the same head at rows of other documents


class EntityVectorReading(MentionReading):
    """What the entity lens wrote for a vector of a head, with the task vector of `layer`.

    Such vectors are no residual streams, for which task vectors are trained, so fluent mentions come for random
    vectors as well. `margin`: the mean log-likelihood of the mention's ids less the largest under random vectors of
    the norm, nats; `null_p`: the share of random vectors whose own mentions reach it. `specific`: at most 0.05,
    something is said, and no control says the same or makes it likelier.
    """

    layer: int
    margin: Real
    null_p: Real
    verdict: EntityVerdict
    controls: tuple[EntityControl, ...]


class StreamReading(Record):
    """What the entity lens wrote for the final stream of a row, and for the same without what the head adds to it.

    `specific`: the two differ, and adding random vectors of that norm changes the mention with at most `null_p` 0.05
    (1 where the two do not differ).
    """

    layer: int
    stream: MentionReading
    without: MentionReading
    null_p: Real
    verdict: EntityVerdict


class HeadVectorReading(Record):
    """One vector of a head at one row. `up`, `down`: tokens that it raises and lowers most, centred logits; empty
    where the model's writes cannot be read as logits. `selfie` is empty and `entity` None where not asked for."""

    what: What
    norm: Real
    up: tuple[TokenValue, ...]
    down: tuple[TokenValue, ...]
    selfie: tuple[SelfieReading, ...] = ()
    entity: EntityVectorReading | None = None


class HeadRowReading(Record):
    """The readings of one row, by the names of its `Example`."""

    doc_id: str
    window: int
    dst: int
    stratum: str
    vectors: tuple[HeadVectorReading, ...]
    stream: StreamReading | None = None  # with the entity lens

    def of(self, doc_id: str, window: int, dst: int) -> bool:
        """Whether these are the readings of that row."""
        return (self.doc_id, self.window, self.dst) == (doc_id, window, dst)


class HeadReadings(Record):
    """All readings of a head, with what they cost; `notes` say what could not be read."""

    head: Head
    rows: tuple[HeadRowReading, ...]
    tokens: int  # that the model read
    seconds: Real
    notes: tuple[str, ...] = ()

    def specific(self) -> tuple[SelfieReading, ...]:
        """The SelfIE readings that may stand as evidence."""
        found = (s for row in self.rows for vector in row.vectors for s in vector.selfie)
        return tuple(s for s in found if s.verdict == "specific")
