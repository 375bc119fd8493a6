"""The agent's part of the rule-based chat model: which experiments it asks for, and what it makes of their numbers.

1. It asks for the most active rows, for rows that its rule does not name, for what is lost without the head, and which
   of two matching rules names the strongest source. In a second round it asks for other rows and the measurements.
2. It revises from these numbers alone: one distance in nearly all rows is a rule of position, a matching rule that
   names enough sources is a claim, both together are two claims, and a head without which nothing is lost changes
   nothing. Where the numbers show none of this, it stays with what it said, or abstains.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autointerp.chat.rules_claims import OUTPUT, RULES, Seen, claim

DUPLICATE, INDUCTION = RULES["duplicate_token"][1], RULES["induction"][1]
NOTHING = 1e-4  # nats: less is no effect
MOST, SOME = 0.7, 0.25
CLEAR = 0.1  # how much more of the sources one matching rule names than the other
TEXTS = 4
Plain = dict[str, Any]


def other_hypotheses(seen: Seen) -> list[Plain]:
    """Two that are always there to be refuted."""
    return [claim("local_context", seen), claim("punctuation", seen)]


def ask_experiments(seen: Seen, history: Plain) -> Plain:
    """The next experiments."""
    best = _best(history)
    predicate = str(best.get("predicate", ""))
    if any(e.get("tool") == "rows" for e in history.get("experiments", [])):
        asked = [
            _rows("random", 5),
            {"tool": "detectors", "arguments": {"data": "all"}},
        ]
        return {"thought": "Do other rows say the same?", "experiments": asked}
    texts = [{"text": text, "mark": "last", "occurrence": 1} for text in seen.texts[:TEXTS]]
    asked = [
        _rows("top", 5),
        _rows("random", 5, predicate=predicate, holds=False) if predicate else _rows("contrast", 3),
        {"tool": "ablate", "arguments": {"texts": texts}},
        {"tool": "disagree", "arguments": {"first": DUPLICATE, "second": INDUCTION, "domain": "text", "n": 1}},
    ]
    return {"thought": "Where does it look, and does anything depend on it?", "experiments": asked}


def _rows(kind: str, n: int, *, predicate: str = "", holds: bool = True) -> Plain:
    arguments = {
        "kind": kind, "n": n, "dst": "", "src": "", "min_distance": 0, "max_distance": 100_000,
        "predicate": predicate, "holds": holds,
    }  # fmt: skip
    return {"tool": "rows", "arguments": arguments}


@dataclass(frozen=True)
class Found:
    """What the experiments showed. `unnamed`: part of all rows whose strongest source the first rule does not name,
    None where that was not asked."""

    distances: tuple[int, ...]
    unnamed_distances: tuple[int, ...]
    unnamed: float | None
    duplicate: float
    induction: float
    lost: float | None

    @classmethod
    def of(cls, experiments: Sequence[Plain]) -> Found:
        every: list[int] = []
        unnamed: list[int] = []
        share: float | None = None
        duplicate, induction, losses = 0.0, 0.0, list[float]()
        for answer, arguments, tool in _answers(experiments):
            if tool == "rows":
                rows = answer.get("rows", [])
                first = [int(row["sources"][0]["distance"]) for row in rows if row.get("sources")]
                every += first
                losses += [float(row["kl_without"]) for row in rows if row.get("kl_without") is not None]
                if arguments.get("predicate") and arguments.get("holds") is False:
                    unnamed += first
                    share = _part(answer.get("matching"), answer.get("of"))
            elif tool == "disagree":
                both, active = answer.get("named_by_both"), answer.get("active_rows")
                duplicate = _part(_sum(answer.get("strongest_source_named_by_first_only"), both), active)
                induction = _part(_sum(answer.get("strongest_source_named_by_second_only"), both), active)
            elif tool == "ablate":
                losses += [float(row["kl"]) for row in answer.get("rows", []) if row.get("kl") is not None]
        return cls(tuple(every), tuple(unnamed), share, duplicate, induction, max(losses, default=None))

    @property
    def matching(self) -> str:
        """The matching rule that names enough of the strongest sources, or none."""
        if self.duplicate >= SOME and self.duplicate > self.induction + CLEAR:
            return "duplicate_token"
        return "induction" if self.induction >= SOME and self.induction > self.duplicate + CLEAR else ""


def _answers(experiments: Sequence[Plain]) -> Iterator[tuple[Plain, Plain, str]]:
    for one in experiments:
        answer = one.get("answer")
        if isinstance(answer, dict):
            yield answer, one.get("arguments", {}), str(one.get("tool"))


def revise(seen: Seen, history: Plain) -> Plain:
    """Claims that the numbers of the experiments give."""
    best, found = _best(history), Found.of(history.get("experiments", []))
    idle = found.lost is not None and found.lost < NOTHING
    if best.get("label") in OUTPUT and not idle:
        return {"thought": "Nothing speaks against it.", "claims": [_again(best)], "abstain": False}
    kinds = _kinds(best, found)
    writes = "Nothing: no prediction changes without this head." if idle else ""
    claims = [claim(kind, seen, writes=writes, offset=offset) for kind, offset in kinds]
    if not claims and best.get("predicate"):
        kept = _again(best)
        own = next((kind for kind, (_, rule) in RULES.items() if rule == best["predicate"]), kept["label"])
        claims = [{**kept, "label": own, "writes": writes} if idle else kept]
    thought = f"{len(found.distances)} rows read; at most {found.lost} nats are lost without the head."
    return {"thought": thought, "claims": claims, "abstain": not claims}


def _kinds(best: Mapping[str, Any], found: Found) -> list[tuple[str, int]]:
    """Claims by kind; of a fixed offset with its distance."""
    rule = str(best.get("predicate", ""))
    position = {RULES[kind][1]: kind for kind in ("previous_token", "current_token")}.get(rule)
    matching, unnamed = found.matching, found.unnamed
    if rule and unnamed is not None and unnamed < SOME:
        return []  # it names what the head looks at
    if matching:
        first = [(position, 0)] if position is not None and unnamed is not None and 1 - unnamed >= SOME else []
        return [*first, (matching, 0)]
    distances = found.unnamed_distances if unnamed is not None and unnamed >= MOST else found.distances
    if not distances:
        return []
    distance, times = Counter(distances).most_common(1)[0]
    if times < MOST * len(distances):
        return []
    return [({0: "current_token", 1: "previous_token"}.get(distance, "fixed_offset"), distance)]


def _best(history: Plain) -> Plain:
    """The hypothesis that was tested first: the experiments were asked for with its rule."""
    hypotheses = history.get("hypotheses", [])
    return dict(hypotheses[0]) if hypotheses else {}


def _again(best: Mapping[str, Any]) -> Plain:
    return {
        "looks_at": best.get("looks_at", ""), "writes": best.get("writes", ""), "label": best.get("label", "other"),
        "predicate": best.get("predicate", ""), "no_predicate": best.get("no_predicate", ""),
        "domain": best.get("domain", "text"), "conditions": best.get("conditions", ""), "confidence": 60,
    }  # fmt: skip


def _sum(one: object, other: object) -> float:
    return sum(float(x) for x in (one, other) if isinstance(x, int | float))


def _part(part: object, of: object) -> float:
    return float(part) / float(of) if isinstance(part, int | float) and isinstance(of, int | float) and of else 0.0
