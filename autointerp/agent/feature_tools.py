"""The closed set of experiments on a neuron or latent: their names, what they show, their bounds and costs."""

from __future__ import annotations

from collections.abc import Sequence

from autointerp.agent import arguments as a
from autointerp.agent import feature_arguments as f
from autointerp.agent.requests import EFFECT_TOKENS, EXPLAIN_TOKENS, LEARN_TOKENS, SELECT_TOKENS, Toolset, text_tokens

RANDOM_DIRECTIONS = 5  # that steering is compared with

_MODELS: dict[str, tuple[type[a.Arguments], str]] = {
    "activate": (a.Places, "Read up to 4 texts. The unit's strength at each marked token, and the strongest other "
                 "tokens of the text that activate it."),
    "edit": (a.Edit, "Replace one span of a text: the unit's strength at the marked token before and after."),
    "rows": (f.UnitRows, "Rows of real text: most active (top), random, or contrast (unit at rest on a token that "
             "activates it elsewhere), filtered by token or predicate, with what is lost without the unit there: KL, "
             "and log probability of the true next token."),
    "score_predicate": (f.ScoreRule, "Score a predicate on held-out rows: F1 with interval, precision, recall, "
                        "coverage, chance, hardest simple rival; and its failures: predicted but silent, active but "
                        "unpredicted, right place but no effect, with sample rows."),
    "disagree": (f.DisagreeRules, "Held-out rows that exactly one of two predicates names: how often the unit is "
                 "active or at rest there, with samples."),
    "ablate": (a.Places, "Take the unit out (mean in its place) at the marked token of up to 4 texts: which next "
               "tokens lose and gain most."),
    "steer": (f.Steer, "Add the unit's direction, 1, 2, 4 or 8 times its usual maximum, at the marked token of up to "
              "4 texts: which next tokens rise and fall most, and the KL beside that of random directions."),
    "direction": (a.Ov, "What the unit's direction does to up to 8 tokens by the weights alone: logits at its usual "
                  "maximum, percentile among all tokens."),
    "measurements": (f.UnitMeasurements, "The unit's measurements: simple rules with their F1, the tokens with most of "
                     "its activation, the tokens that its output moves."),
    "separate": (f.Separate, "8 to 24 short texts with a marked token and one of two labels: does the unit's strength "
                 "at the marks tell the labels apart, against shuffled labels?"),
}  # fmt: skip


def _fed(name: str, found: a.Arguments) -> int:
    match found:
        case f.Steer(texts=texts):
            return 2 * (1 + RANDOM_DIRECTIONS) * _padded([place.text for place in texts])
        case a.Places(texts=texts):
            return (1 if name == "activate" else 3) * _padded([place.text for place in texts])
        case a.Edit(text=text, by=by):
            return _padded([text, text + by])
        case f.UnitRows():
            return EXPLAIN_TOKENS + EFFECT_TOKENS
        case f.ScoreRule():
            return SELECT_TOKENS + LEARN_TOKENS + EFFECT_TOKENS
        case f.DisagreeRules():
            return SELECT_TOKENS
        case f.Separate(items=items):
            return _padded([item.text for item in items])
    return 0


def _padded(texts: Sequence[str]) -> int:
    """Texts are fed together, each as long as the longest."""
    return len(texts) * max(text_tokens([text]) for text in texts)


FEATURE_TOOLS = Toolset(_MODELS, _fed)
