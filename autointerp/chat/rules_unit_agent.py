"""The agent's part of the rule-based chat model for neurons and latents: its experiments, and what it makes of them.

1. Its first answer names one token (`rules_features`). It asks for the strongest rows with that token and without it,
   for the places where that rule fails, and for made-up texts in which the tokens of the evidence stand after others.
   In a second round it asks for rows at rest with the same tokens, changes the token before one, looks for what its new
   rule misses, and for what is lost without the unit. A third one asks what adding the unit does.
2. It revises from these numbers alone. A token at which the unit is active in a made-up text counts by itself; one at
   which it rests there, or in some row, counts after what stands before it where it is active. Both together are two
   claims. A unit without which nothing is lost changes nothing. Where no token is left, it abstains.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autointerp.chat.rules_features import does, moved
from autointerp.chat.rules_units import ACTIVE, Place, TokenRule, learned, places_of

NOTHING = 1e-4  # nats: less is no effect
TEXTS, IN_TEXT, ROWS, MOST_TOKENS = 4, 3, 5, 10
LEAD, OTHER = "Now", " and"  # what made-up texts begin with; what takes the place of a token before
OPENING = " ("  # after which a word stands without its space
MOST_CHARACTERS = 300
CONFIDENCE = 60
Plain = dict[str, Any]


@dataclass(frozen=True)
class UnitSeen:
    """What the evidence shows: the tokens on which the activation falls, and what the direction raises and lowers."""

    tokens: tuple[str, ...]
    raises: tuple[str, ...]
    lowers: tuple[str, ...]

    @classmethod
    def of(cls, evidence: Mapping[str, Any]) -> UnitSeen:
        most = evidence.get("statistics", {}).get("tokens_with_most_activation", [])
        output = evidence.get("output", {})
        up, down = (tuple(moved(output, name)) for name in ("raised", "lowered"))
        return cls(tuple(str(one.get("token", "")) for one in most if one.get("active")), up, down)

    @property
    def texts(self) -> dict[str, tuple[str, ...]]:
        """Made-up texts, and the tokens that stand in each."""
        found: dict[str, tuple[str, ...]] = {}
        for start in range(0, TEXTS * IN_TEXT, IN_TEXT):
            part = self.tokens[start : start + IN_TEXT]
            text = LEAD + "".join(f"{OPENING}{token}" if token[:1].isalnum() else token for token in part)
            if part and len(text) <= MOST_CHARACTERS:
                found[text] = part
        return found


def other_unit_hypotheses(evidence: Mapping[str, Any]) -> list[Plain]:
    """Two that are always there to be refuted."""
    seen = UnitSeen.of(evidence)
    told = [
        ("token_class", "Active at capitalised words.", "dst.is_capitalised"),
        ("position", "Active at the first tokens of a text.", "dst.position <= 8"),
    ]
    return [_claim(part, seen) for part in told]


def ask_unit_experiments(evidence: Mapping[str, Any], history: Plain) -> Plain:
    """The next experiments."""
    seen, rule = UnitSeen.of(evidence), _predicate(history)
    done = {int(one.get("round") or 0) for one in history.get("experiments", [])}
    if not done:
        return _asked("Is it this token, whatever stands before it, and nothing else?", _first(seen, rule))
    if len(done) == 1:
        return _asked("What is missing, and does anything depend on it?", _second(seen, rule, history))
    texts = [{"text": text, "mark": "last", "occurrence": 1} for text in list(seen.texts)[:TEXTS]]
    asked = [{"tool": "steer", "arguments": {"texts": texts, "strength": 4}}] if texts else []
    asked.append({"tool": "measurements", "arguments": {"data": "all"}})
    return _asked("What does adding it do?", asked)


def _asked(thought: str, experiments: list[Plain]) -> Plain:
    return {"thought": thought, "experiments": experiments}


def _first(seen: UnitSeen, rule: str) -> list[Plain]:
    if not rule:
        return [_rows("top"), _rows("contrast")]
    asked = [_rows("top", rule), _rows("top", rule, holds=False),
             {"tool": "score_predicate", "arguments": {"predicate": rule}}]  # fmt: skip
    texts = [{"text": text, "mark": "last", "occurrence": 1} for text in seen.texts]
    return [*asked, {"tool": "activate", "arguments": {"texts": texts}}] if texts else asked


def _second(seen: UnitSeen, rule: str, history: Plain) -> list[Plain]:
    active = [place for place in Found.of(history, seen).places if place.active and len(place.text) <= MOST_CHARACTERS]
    asked = [_rows("top", rule, holds=False) if rule else _rows("random"), _rows("contrast", rule)]
    changed = next((p for p in active if p.before and p.before != OTHER), None)
    if changed is not None:
        asked.append({"tool": "edit", "arguments": {
            "text": changed.text, "mark": "last", "occurrence": 1, "replace": changed.before + changed.token,
            "by": OTHER + changed.token,
        }})  # fmt: skip
    texts = [{"text": text, "mark": "last", "occurrence": 1} for text in dict.fromkeys(p.text for p in active)]
    return [*asked, {"tool": "ablate", "arguments": {"texts": texts[:TEXTS]}}] if texts else asked


def _rows(kind: str, predicate: str = "", *, holds: bool = True) -> Plain:
    arguments = {"kind": kind, "n": ROWS, "token": "", "predicate": predicate, "holds": holds}
    return {"tool": "rows", "arguments": arguments}


@dataclass(frozen=True)
class Found:
    """What the experiments showed. `alone`: whether the unit was active at a token after something else than in text ·
    `lost`: the largest effect of taking it out, None where none was measured · `lowered`: tokens that then lose in
    most texts."""

    places: tuple[Place, ...]
    alone: Mapping[str, bool]
    lost: float | None
    lowered: tuple[str, ...]

    @classmethod
    def of(cls, history: Plain, seen: UnitSeen) -> Found:
        places: list[Place] = []
        alone: dict[str, bool] = {}
        losses: list[float] = []
        lowered: Counter[str] = Counter()
        texts = 0
        for tool, arguments, answer in _answers(history):
            places += places_of(answer)
            rows = [row for row in answer.get("rows", []) if isinstance(row, dict)] if tool != "score_predicate" else []
            if tool == "activate":
                alone |= _made_up(seen, arguments, rows)
            elif tool == "edit":
                alone |= _edited(answer)
            elif tool == "ablate":
                texts += len(rows)
                lowered.update(str(lost[0]) for row in rows for lost in row.get("lose", []) if lost)
            name = "kl" if tool == "ablate" else "kl_without"
            losses += [float(row[name]) for row in rows if isinstance(row.get(name), int | float)]
        often = tuple(token for token, times in lowered.most_common(MOST_TOKENS) if 2 * times > texts)
        return cls(tuple(places), alone, max(losses, default=None), often)

    @property
    def idle(self) -> bool:
        """Whether nothing depends on the unit."""
        return self.lost is not None and self.lost < NOTHING


def _answers(history: Plain) -> Iterator[tuple[str, Plain, Plain]]:
    for one in history.get("experiments", []):
        answer = one.get("answer")
        if isinstance(answer, dict):
            yield str(one.get("tool")), one.get("arguments") or {}, answer


def _made_up(seen: UnitSeen, arguments: Plain, rows: Sequence[Plain]) -> dict[str, bool]:
    """For each token of the made-up texts whether the unit was active at it; rows stand in the order of the texts."""
    found: dict[str, bool] = {}
    for place, row in zip(arguments.get("texts", []), rows, strict=False):
        active = [token for token, _, strength in row.get("active_tokens", []) if float(strength or 0) >= ACTIVE]
        active += [row.get("at")] if float(row.get("strength") or 0) >= ACTIVE else []
        found |= {token: token in active for token in seen.texts.get(str(place.get("text")), ())}
    return found


def _edited(answer: Plain) -> dict[str, bool]:
    """The token after which something else was put, and whether the unit is still active there."""
    changed, at = answer.get("changed", {}), answer.get("after", {}).get("at")
    if not changed.get("was_active") or at != answer.get("before", {}).get("at"):
        return {}
    return {str(at): bool(changed.get("is_active"))}


def revise_unit(evidence: Mapping[str, Any], history: Plain) -> Plain:
    """Claims that the numbers of the experiments give."""
    seen = UnitSeen.of(evidence)
    found, before = Found.of(history, seen), _predicate(history)
    said = TokenRule.read(before)
    rule = learned(said, found.places, found.alone) if said.parts else TokenRule()
    claims = [_claim(part, seen, found) for part in rule.parts]
    if before and not said.parts:
        claims = [_again(_latest(history))]  # of another form, of which rows of tokens do not decide
    thought = f"{len(found.places)} rows read; at most {found.lost} nats are lost without the unit."
    return {"thought": thought, "claims": claims, "abstain": not claims}


def _claim(part: tuple[str, str, str], seen: UnitSeen, found: Found | None = None) -> Plain:
    label, words, predicate = part
    idle = found is not None and found.idle
    lost = found.lowered if found is not None else ()
    raises = [] if idle else list(dict.fromkeys([*seen.raises, *lost]))[:MOST_TOKENS]
    lowers = [] if idle else [token for token in seen.lowers if token not in raises][:MOST_TOKENS]
    said = "Nothing: no prediction changes without this unit." if idle else does(raises, lowers)
    return {
        "activates_on": words[:400], "does": said[:400], "label": label, "predicate": predicate, "no_predicate": "",
        "raises": raises, "lowers": lowers, "conditions": "", "confidence": CONFIDENCE,
    }  # fmt: skip


def _latest(history: Plain) -> Plain:
    """The last thing that was said of the unit as a whole, else the first hypothesis."""
    hypotheses = history.get("hypotheses", [])
    revised = [one for one in hypotheses if str(one.get("name", "")).startswith("revision")]
    return dict(revised[-1] if revised else hypotheses[0]) if hypotheses else {}


def _predicate(history: Plain) -> str:
    return str(_latest(history).get("predicate") or "")


def _again(said: Mapping[str, Any]) -> Plain:
    return {
        "activates_on": said.get("activates_on", ""), "does": said.get("does", ""), "label": said.get("label", "other"),
        "predicate": said.get("predicate", ""), "no_predicate": said.get("no_predicate", ""),
        "raises": list(said.get("raises", [])), "lowers": list(said.get("lowers", [])),
        "conditions": said.get("conditions", ""), "confidence": CONFIDENCE,
    }  # fmt: skip
