"""The closed set of experiments on a head: their names, what they show, their bounds and costs."""

from __future__ import annotations

from autointerp.agent import arguments as a
from autointerp.agent.requests import EFFECT_TOKENS, EXPLAIN_TOKENS, SELECT_TOKENS, Toolset, text_tokens

SELFIE_TOKENS = 200_000

_MODELS: dict[str, tuple[type[a.Arguments], str]] = {
    "attend": (a.Places, "Read up to 4 texts. At each marked destination: the sources that the head attends to, their "
               "share off the first position and share of what it moves, and the tokens that its output raises and "
               "lowers."),
    "edit": (a.Edit, "Replace one span of a text and read the head's row at the marked destination before and after."),
    "rows": (a.Rows, "Rows of real text: most active (top), random, or contrast (same destination token, head at "
             "rest), filtered by token, distance, or whether a predicate names the most attended source."),
    "score_predicate": (a.ScorePredicate, "Score a predicate on held-out rows: F1 with interval, precision, recall, "
                        "coverage, chance, best simple rival; and its failures: predicted but silent, active but "
                        "unpredicted, right place but no effect, with sample rows."),
    "disagree": (a.Disagree, "Held-out rows where exactly one of two predicates names the head's strongest source or "
                 "names a source at all, with what the head did there and how often each was right."),
    "ablate": (a.Places, "Take the head's output out (mean in its place) at the marked destination of up to 4 texts: "
               "which next tokens lose and gain most."),
    "patch": (a.Patch, "Exchange the head's output between a clean and a corrupted text of equal token length: logit "
              "difference of answer and wrong after the last token, before and after, both ways."),
    "lens": (a.Lens, "What the head's output at a position says in the vocabulary, as a whole and against its mean."),
    "ov": (a.Ov, "What attending to each of up to 8 tokens raises and lowers, by the head's weights alone."),
    "detectors": (a.Detectors, "The head's measurements with percentile among all heads and the highest null value."),
    "probe": (a.Probe, "8 to 24 short texts with a marked token and one of two labels: can a linear probe read the "
              "label from the head's output, on items it was not trained on, against shuffled labels?"),
}  # fmt: skip


def _fed(name: str, found: a.Arguments) -> int:
    match found:
        case a.Places(texts=texts):
            times = 1 if name == "attend" else 4
            return times * text_tokens(place.text for place in texts)
        case a.Edit(text=text, by=by):
            return text_tokens((text, text + by))
        case a.Rows():
            return EXPLAIN_TOKENS + EFFECT_TOKENS
        case a.ScorePredicate() | a.Disagree():
            return SELECT_TOKENS + 2 * EFFECT_TOKENS
        case a.Patch(clean=clean, corrupted=corrupted):
            return 4 * text_tokens((clean, corrupted))
        case a.Lens(text=text, selfie=selfie):
            return 3 * text_tokens((text,)) + SELFIE_TOKENS * selfie
        case a.Ov(tokens=tokens):
            return 2 * len(tokens)
        case a.Probe(items=items):
            return text_tokens(item.text for item in items)
    return 0


HEAD_TOOLS = Toolset(_MODELS, _fed)
