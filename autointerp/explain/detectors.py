"""The detector explainer: a description from measurements alone, without a language model.

1. The labels are the detectors that fire (lower end above every null, lift over uniform), strongest first.
2. The first label gives the claim: a sentence, a predicate, and the domain in which it holds more strongly.
3. The output side is read from the write on the attended token and from the copying detectors.
4. Where nothing fires it abstains and says what came closest.

It is the baseline that every LLM run is compared with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from autointerp.evidence.detectors import labels_of
from autointerp.explain.outcome import Explanation
from autointerp.predicate import parse
from autointerp.records import Description, Domain, Evidence, Provenance, Reading

MAX_PREDICATE = 400
NEAREST = 0.75  # of what lies on a kind of source, for the claim that it is the last one
FUNCTION_WORDS = (
    "the", "a", "an", "of", "to", "and", "in", "that", "it", "is", "was", "for", "on", "with", "as", "he", "she",
    "they", "i", "you", "be", "at", "by", "his", "her", "not", "but", "had", "have", "or", "from", "this", "were",
)  # fmt: skip
CLASS_PREDICATES = {
    "capitalised": ("capitalised words", "src.is_capitalised"),
    "numeral": ("numbers", "src.is_number"),
    "newline": ("line breaks", "src.is_newline"),
    "word_initial": ("tokens that begin a word", "src.is_word_start"),
    "punctuation": ("punctuation signs", "src.is_punctuation"),
}


@dataclass(frozen=True)
class Claim:
    """Where a head looks: a sentence and the rule that says the same."""

    looks_at: str
    predicate: str | None


def _fixed(sentence: str, predicate: str) -> Callable[[Reading, Evidence], Claim]:
    return lambda reading, evidence: Claim(sentence, predicate)


def _offset(reading: Reading, evidence: Evidence) -> Claim:
    k = int(reading.detail["offset"])
    return Claim(f"Every token attends to the token {k} positions before it.", f"distance == {k}")


def _copies(sentence: str, predicate: str) -> Callable[[Reading, Evidence], Claim]:
    """Earlier copies, all of them or the last one; on repeats there is only one."""

    def claim(reading: Reading, evidence: Evidence) -> Claim:
        on_text = evidence.reading(reading.name, "text")
        if on_text is not None and on_text.fires and _on_nearest(on_text):
            return Claim(f"{sentence} It takes the last one.", f"nearest({predicate})")
        return Claim(sentence, predicate)

    return claim


def _on_nearest(reading: Reading) -> bool:
    """Whether most of what lies on the targets lies on the last one."""
    nearest = reading.detail.get("nearest")
    return isinstance(nearest, float) and nearest > NEAREST * reading.value


def _punctuation(reading: Reading, evidence: Evidence) -> Claim:
    return _of_class(reading, "punctuation signs", "src.is_punctuation")


def _token_class(reading: Reading, evidence: Evidence) -> Claim:
    name = str(reading.detail["class"])
    if name == "own":
        return _own_tokens(reading, evidence)
    if name == "function_word":
        words = "{" + ", ".join(f'"{w}"' for w in FUNCTION_WORDS) + "}"
        return _of_class(reading, "function words", f"src.lower in {words}")
    return _of_class(reading, *CLASS_PREDICATES[name])


def _of_class(reading: Reading, what: str, predicate: str) -> Claim:
    """All tokens of a class, or the last one where it takes most of the attention."""
    if _on_nearest(reading):
        return Claim(f"Every token attends to the last of these before it: {what}.",
                     f"nearest({predicate} and distance > 0)")  # fmt: skip
    return Claim(f"Every token attends to {what}.", predicate)


def _own_tokens(reading: Reading, evidence: Evidence) -> Claim:
    shown: list[str] = []
    for total in evidence.stats.top_sources[:8]:
        names = ", ".join(_quoted(t) for t in [*shown, total.token])
        if len("nearest(src.text in {} and distance > 0)" + names) > MAX_PREDICATE:
            continue
        shown.append(total.token)
    if not shown:  # a vocabulary can hold a token that is longer than a predicate may be
        return Claim("Every token attends to a few set tokens, too long to be written here.", None)
    names = ", ".join(_quoted(t) for t in shown)
    return _of_class(reading, f"a few set tokens, {names}", f"src.text in {{{names}}}")


def _quoted(token: str) -> str:
    return '"' + "".join(map(_literal, token)) + '"'


def _literal(character: str) -> str:
    if character.isprintable() and character not in '\\"':
        return character
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


CLAIMS: dict[str, Callable[[Reading, Evidence], Claim]] = {
    "previous_token": _fixed("Every token attends to the token directly before it.", "distance == 1"),
    "current_token": _fixed("Every token attends to itself.", "distance == 0"),
    "first_token": _fixed("Every token rests on the first position of the text.", "src.is_first"),
    "duplicate_token": _copies(
        "A token that occurred before attends to its earlier occurrences.", "src == dst and distance > 0"
    ),
    "induction": _copies(
        "A token that occurred before attends to the token that followed its earlier occurrence.",
        "src.prev == dst and distance > 0",
    ),
    "fixed_offset": _offset,
    "local_context": _fixed("Every token spreads its attention over the last few tokens.", "distance <= 7"),
    "punctuation": _punctuation,
    "delimiter_matching": _fixed(
        "Tokens inside brackets or quotations attend to the sign that opened them.",
        "nearest(src.is_open_bracket and distance > 0)",
    ),
    "token_class": _token_class,
}


class DetectorExplainer:
    """Fills a description from the detector readings; asks nobody."""

    async def explain(self, evidence: Evidence) -> Explanation:
        provenance = Provenance(explainer="detectors")
        return Explanation(outcome=describe(evidence), provenance=provenance)


def describe(evidence: Evidence) -> Description:
    """The detectors' description of one head, or their abstention."""
    labels = labels_of(evidence.readings)
    output = _output_label(evidence)
    pattern = [label for label in labels if label in CLAIMS]
    if not pattern:
        return _without_pattern(evidence, output)
    claimed = pattern[0]
    named = [label for label in labels if label in CLAIMS or _attends_to_the_predicted(evidence, label)]
    named = [label for label in named if label != "first_token" or len(named) == 1]  # resting is in the conditions
    claim = CLAIMS[claimed](_strongest(evidence, claimed), evidence)
    if claim.predicate is not None:
        parse(claim.predicate)  # a claim of ours that does not parse is our error, and must not pass silently
    further = tuple(dict.fromkeys([*named, *([output] if output else [])]))
    others = [label for label in named if label != claimed]
    return Description(
        summary=claim.looks_at + (f" It also does: {', '.join(others)}." if others else ""),
        looks_at=claim.looks_at,
        writes=_writes(evidence),
        label=further[0],
        labels=further,
        predicate=claim.predicate,
        domain=_domain(evidence, claimed),
        conditions=_conditions(evidence, claimed),
        confidence=max(0.0, min(1.0, round(_strongest(evidence, claimed).low, 4))),
    )


def _attends_to_the_predicted(evidence: Evidence, label: str) -> bool:
    """Copy suppression as it shows on text, where it says what the head attends to; from the parameters alone it says
    what it writes. No rule over tokens can state it, so that the claim is that of another label."""
    on_text = evidence.reading(label, "text")
    return label == "copy_suppression" and on_text is not None and on_text.fires


def _without_pattern(evidence: Evidence, output: str | None) -> Description:
    best = max(
        (r for r in evidence.readings if r.name in CLAIMS and r.lift_over_uniform == r.lift_over_uniform),
        key=lambda r: r.lift_over_uniform,
        default=None,
    )
    closest = (
        ""
        if best is None
        else (
            f" The closest was {best.name} on {best.data}: {best.value:.3f}, "
            f"{best.lift_over_uniform:.1f} times uniform, "
            f"null maximum {best.null_max:.3f}."
        )
    )
    return Description(
        summary=f"No detector of an attention pattern fires.{closest}",
        looks_at="unclear",
        writes=_writes(evidence),
        label="unclear",
        labels=(output,) if output else (),
        abstained=True,
    )


def _strongest(evidence: Evidence, label: str) -> Reading:
    """The reading of the label with the larger lift among those that fire."""
    fired = [r for r in evidence.readings if r.name == label and r.fires]
    others = [r for r in fired if r.detail.get("class") != "punctuation"]  # it has a label of its own
    return max(others or fired, key=lambda r: r.lift_over_uniform)


def _domain(evidence: Evidence, label: str) -> Domain:
    """Repeats where the detector fires only there, or for matching tokens where it is stronger there."""
    on_text, on_repeats = evidence.reading(label, "text"), evidence.reading(label, "repeats")
    text = on_text is not None and on_text.fires
    repeats = on_repeats is not None and on_repeats.fires
    if text and repeats and label in ("duplicate_token", "induction"):
        return "repeats" if on_repeats and on_text and on_repeats.value > on_text.value else "text"
    return "text" if text or not repeats else "repeats"


def _conditions(evidence: Evidence, label: str) -> str:
    parts = []
    stats = evidence.stats
    if stats.sink_mass.value > 0.3 and label != "first_token":
        parts.append(f"rests on the first position with {100 * stats.sink_mass.value:.0f} % of its attention on text")
    for reading in evidence.readings:
        if reading.name == label and reading.data in ("text", "repeats"):
            parts.append(f"{reading.name} on {reading.data}: {reading.value:.2f}, percentile {reading.percentile:.0f}")
    return "; ".join(parts)


def _output_label(evidence: Evidence) -> str | None:
    """Copying or suppression, where the parameters or the writes on text say so."""
    for name in ("successor", "copy_suppression", "copying"):
        if any(r.name == name and r.fires for r in evidence.readings):
            return name
    suppresses = any(r.name == "anti_copying" and r.fires for r in evidence.readings)
    return "copy_suppression" if suppresses and evidence.readout.copies_source_high < 0 else None


def _writes(evidence: Evidence) -> str:
    readout = evidence.readout
    effect = f"{readout.copies_source:+.2f} logits on average, 95 % {readout.copies_source_low:+.2f} to "
    effect += f"{readout.copies_source_high:+.2f}, {readout.n} examples"
    if readout.copies_source_low > 0:
        return f"Raises the attended token as the next token ({effect})."
    if readout.copies_source_high < 0:
        return f"Lowers the attended token as the next token ({effect})."
    names = ", ".join(_quoted(t.token) for t in readout.up[:3])
    most = f" Most raised in its examples: {names}." if names else ""
    return f"No consistent effect on the attended token ({effect}).{most}"
