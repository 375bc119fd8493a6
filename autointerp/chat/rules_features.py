"""What `--llm rules` says of neurons and latents at first, and as a judge.

It is no good explainer on purpose. Where a rule about tokens fires, it names the one token on which most of the
activation falls: one of a set, the second of a pair, or one half of a unit that answers to two things. Only experiments
lead it out again (`rules_unit_agent`). Of other rules it takes the one with the best F1 that fires. As a judge it looks
for the quoted tokens of a description and forgets all else that the description says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from autointerp.predicate.tree import quote

Plain = dict[str, Any]
OF_TOKENS = ("token", "token_set", "token_pair")
QUOTED = re.compile(r'"(?:\\.|[^"\\])*"')
STRENGTH, CHANGE = 8, 5
KINDS = {
    "is_number": ("numbers", str.isdigit),
    "is_capitalised": ("capitalised words", lambda token: token[:1].isupper()),
    "is_punctuation": ("punctuation", lambda token: bool(token) and not any(c.isalnum() for c in token)),
}


def describe_unit(evidence: Mapping[str, Any]) -> Plain:
    """The description of one unit from its evidence block."""
    fired = [rule for rule in evidence.get("rules", []) if rule.get("fires")]
    best = max(fired, key=lambda rule: float(rule.get("f1") or 0), default=None)
    best = best if best is None else {**best, **_one_token(evidence, best)}
    raises, lowers = (moved(evidence.get("output", {}), name) for name in ("raised", "lowered"))
    predicate = "" if best is None else str(best["predicate"])
    activates_on = "" if best is None else f"Active at {_named(predicate)}."
    return {
        "activates_on": activates_on,
        "does": does(raises, lowers),
        "summary": activates_on or "No rule fits.",
        "label": "unclear" if best is None else str(best["kind"]),
        "predicate": predicate,
        "raises": raises,
        "lowers": lowers,
        "conditions": "",
        "counterexamples": "",
        "confidence": 0 if best is None else round(100 * min(1.0, max(0.0, float(best.get("f1") or 0)))),
        "unclear": best is None,
    }


def _one_token(evidence: Mapping[str, Any], best: Mapping[str, Any]) -> Plain:
    """The claim that it is one token alone, where a rule about tokens fires."""
    most = evidence.get("statistics", {}).get("tokens_with_most_activation", [])
    token = next((str(one["token"]) for one in most if one.get("active")), None)
    if best.get("kind") not in OF_TOKENS or token is None:
        return {}
    return {"kind": "token", "predicate": f"dst.text == {quote(token)}"}


def _named(predicate: str) -> str:
    """The tokens that a predicate quotes, or the kind of token that it names."""
    tokens = list(dict.fromkeys(QUOTED.findall(predicate)))
    kinds = [name for attribute, (name, _) in KINDS.items() if f"dst.{attribute}" in predicate]
    return "the tokens " + ", ".join(tokens) if tokens else ", ".join(kinds) or "tokens of a kind"


def moved(output: Mapping[str, Any], name: str) -> list[str]:
    """Tokens that the unit's direction moves further than random ones do: `raised` or `lowered`."""
    least = float(output.get("largest_of_random_directions") or 0.0)
    return [str(v["token"]) for v in output.get(name) or [] if abs(float(v["logits"] or 0)) > least]


def does(raises: list[str], lowers: list[str]) -> str:
    """These tokens in words, as `change` reads them."""
    parts = [f"{verb} {', '.join(map(json.dumps, tokens))}"
             for verb, tokens in (("Raises", raises), ("Lowers", lowers)) if tokens]  # fmt: skip
    return ". ".join(parts) or "Moves no token clearly"


def is_about_unit(description: Mapping[str, Any]) -> bool:
    """Whether a judge's prompt shows the description of a neuron or latent."""
    return "activates_on" in description


def _active(description: Mapping[str, Any], token: str) -> bool:
    said = str(description.get("activates_on", ""))
    tokens = {text.strip().casefold() for text in _quoted(said)}
    if tokens:
        return token.strip().casefold() in tokens
    return any(name in said and fits(token.strip()) for name, fits in KINDS.values())


def _quoted(text: str) -> list[str]:
    found = []
    for quoted in QUOTED.findall(text):
        try:
            found.append(str(json.loads(quoted)))
        except ValueError:  # an escape of the predicate language that JSON has not
            found.append(quoted[1:-1])
    return found


def detect(description: Mapping[str, Any], items: list[Plain]) -> Plain:
    """Yes where the marked token is quoted by the description."""
    said = {str(number): _active(description, str(item.get("token", ""))) for number, item in enumerate(items, 1)}
    return {"answers": {number: "yes" if active else "no" for number, active in said.items()}}


def simulate(description: Mapping[str, Any], items: list[Plain]) -> Plain:
    """One strength for all quoted tokens."""
    rows = {
        str(number): [[place, STRENGTH] for place, token in item.get("tokens", []) if _active(description, str(token))]
        for number, item in enumerate(items, 1)
    }
    return {"rows": rows}


def change(description: Mapping[str, Any], items: list[Plain]) -> Plain:
    """The same number for every token that is said to be raised, its negative for those said to be lowered."""
    raised, _, lowered = str(description.get("does", "")).partition("Lowers")
    up, down = (set(_quoted(part)) for part in (raised, lowered))
    rows = {
        str(number): [CHANGE * ((c in up) - (c in down)) for c in map(str, item.get("candidates", []))]
        for number, item in enumerate(items, 1)
    }
    return {"rows": rows}
