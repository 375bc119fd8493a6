"""What a language model is shown of the lens readings of a row: nothing that did not beat its controls.

The logit lens of the output stands in the row already (`raises`, `lowers`); here is that of the difference that the
head makes after later layers. Everything is plain data; no layer and no head is named.
"""

from __future__ import annotations

from typing import Any

from autointerp.lens_records import (
    EntityVectorReading,
    HeadRowReading,
    HeadVectorReading,
    MentionReading,
    StreamReading,
)

TOKENS, LONGEST = 3, 80
Plain = dict[str, Any]


def row_words(row: HeadRowReading) -> Plain:
    """The readings of a row for a prompt."""
    shown: Plain = {}
    for vector in row.vectors:
        if vector.what == "difference":
            shown["raises_in_the_end"] = [value.token for value in vector.up[:TOKENS]]
            shown["lowers_in_the_end"] = [value.token for value in vector.down[:TOKENS]]
    mentions = {v.what: _entity(v.entity) for v in row.vectors if v.entity is not None}
    if mentions:
        shown["stands_for"] = {what: said for what, said in mentions.items() if said is not None}
    if row.stream is not None and row.stream.verdict == "specific":
        shown["stream_stands_for"] = _stream(row.stream)
    said = [(v.what, s.prompt, s.text) for v in row.vectors for s in v.selfie if s.verdict == "specific"]
    if any(v.selfie for v in row.vectors):
        shown["model_says"] = [{"of": what, "asked": prompt, "text": text[:LONGEST]} for what, prompt, text in said]
    return shown


def lens_names(row: HeadRowReading) -> set[str]:
    """Which lenses read the row."""
    found = {name for vector in row.vectors for name in _of_vector(vector)}
    return found | ({"entity"} if row.stream is not None else set())


def _of_vector(vector: HeadVectorReading) -> set[str]:
    there = {"logit": vector.up, "entity": vector.entity, "selfie": vector.selfie}
    return {name for name, found in there.items() if found}


def _entity(reading: EntityVectorReading) -> Plain | None:
    """A mention beside that of the mean over other documents (of a random vector, where there is none); None where
    the controls say the same or are as likely."""
    if reading.verdict != "specific":
        return None
    control = next((c for c in reading.controls if c.name == "mean"), reading.controls[0])
    return _mention(reading) | {"control": _mention(control)}


def _stream(reading: StreamReading) -> Plain:
    return {"with_head": _mention(reading.stream), "without_head": _mention(reading.without)}


def _mention(reading: MentionReading) -> Plain:
    return {"mention": reading.mention[:LONGEST], "likelihood": round(reading.likelihood, 2)}
