"""What the rule-based chat model makes of rows of a unit: places where it is active or rests, and rules over tokens.

It knows two kinds of rules: tokens at which the unit is active whatever stands before, and tokens at which it is active
after some others. It learns them from the texts and strengths that experiments show, and reads its own ones back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autointerp.predicate.tree import quote

ACTIVE, RESTING = 3.0, 0.2  # strengths
CUT, HERE, CLOSE = "…", ">", "<"  # how a text of a row is shown
CONTROL = re.compile(r"\A<[^<>\s]{1,20}>")  # that a text begins with: fed without being written
BEFORE = re.compile(r" ?[^\W_]+\Z| ?[^\w\s]\Z|\s\Z")
STRING = r'"(?:\\.|[^"\\])*"'
NAMED = rf"(?:== {STRING}|in \{{{STRING}(?:, {STRING})*\}})"
CLAUSE = re.compile(rf"dst\.text ({NAMED})(?: and dst\.prev\.text ({NAMED}))?")
MAX_PREDICATE = 400
Plain = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """A row of text: the token in question, the one before it (empty where it is not to be seen), the strength."""

    token: str
    before: str
    strength: float
    text: str  # up to the token, the token included

    @property
    def active(self) -> bool:
        return self.strength >= ACTIVE

    @property
    def rests(self) -> bool:
        return self.strength <= RESTING

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Place | None:
        """The row of an experiment; None for one that shows no text or no strength."""
        shown, strength = row.get("text"), row.get("strength")
        if not isinstance(shown, str) or not isinstance(strength, int | float) or not shown.endswith(CLOSE):
            return None
        mark = shown.rfind(HERE, 0, len(shown) - 2)  # a token has at least one character
        if mark < 0:
            return None
        before, token = CONTROL.sub("", shown[:mark]), shown[mark + 1 : -1]
        found = BEFORE.search(before)
        cut = found is None or (before[: found.start()] == CUT and not found[0].startswith(" "))
        earlier = "" if cut or found is None else found[0]
        return cls(token, earlier, float(strength), before.removeprefix(CUT) + token)


@dataclass(frozen=True)
class TokenRule:
    """`alone`: tokens that count whatever stands before; `paired`: those that count after one of `before`."""

    alone: tuple[str, ...] = ()
    paired: tuple[str, ...] = ()
    before: tuple[str, ...] = ()

    @classmethod
    def read(cls, predicate: str) -> TokenRule:
        """A rule of our own form; what is of another form is left out."""
        alone, paired, before = list[str](), list[str](), list[str]()
        for here, earlier in CLAUSE.findall(predicate):
            if earlier:
                paired += _strings(here)
                before += _strings(earlier)
            else:
                alone += _strings(here)
        return cls(*(tuple(dict.fromkeys(part)) for part in (alone, paired, before)))

    @property
    def parts(self) -> list[tuple[str, str, str]]:
        """(label, words, predicate) of each thing that the unit answers to."""
        found = []
        if self.alone:
            label = "token" if len(self.alone) == 1 else "token_set"
            found.append((label, f"Active at {_listed(self.alone)}.", _clause("dst.text", self.alone)))
        if self.paired and self.before:
            rule = f"{_clause('dst.text', self.paired)} and {_clause('dst.prev.text', self.before)}"
            found.append(("token_pair", f"Active at {_listed(self.paired)} after {_listed(self.before)}.", rule))
        return [part for part in found if len(part[2]) <= MAX_PREDICATE]


def learned(rule: TokenRule, places: Sequence[Place], alone: Mapping[str, bool]) -> TokenRule:
    """A rule corrected by rows. `alone`: whether the unit was active at a token after something that it had not stood
    after before; such a token needs none before it, and one at which it was not needs one."""
    silent = {(place.token, place.before) for place in places if place.rests}
    active = [place for place in places if place.active]
    single, paired, before = list(rule.alone), list(rule.paired), list(rule.before)
    single += [token for token, counts in alone.items() if counts]
    needs = {token for token, counts in alone.items() if not counts} | {token for token, _ in silent}
    for place in active:
        if place.token not in needs:
            single.append(place.token)
        elif not alone.get(place.token) and place.before:
            paired.append(place.token)
            before.append(place.before)
    single = [token for token in single if alone.get(token) or token not in needs]
    paired = [token for token in paired if token not in single]
    refuted = {earlier for token, earlier in silent if token in paired}
    before = [token for token in before if token not in refuted]
    parts = (dict.fromkeys(part) for part in (single, paired, before if paired else []))
    return TokenRule(*(tuple(part) for part in parts))


def places_of(answer: Mapping[str, Any]) -> Iterator[Place]:
    """All rows that an answer shows, those of its groups included."""
    groups: Iterable[Any] = [answer, *(value for value in answer.values() if isinstance(value, dict))]
    for group in groups:
        for name in ("rows", "samples"):
            rows = group.get(name)
            for row in rows if isinstance(rows, list) else []:
                place = Place.of(row) if isinstance(row, dict) else None
                if place is not None:
                    yield place


def _clause(what: str, tokens: Sequence[str]) -> str:
    if len(tokens) == 1:
        return f"{what} == {quote(tokens[0])}"
    return f"{what} in {{{', '.join(map(quote, tokens))}}}"


def _strings(named: str) -> list[str]:
    found = []
    for text in re.findall(STRING, named):
        try:
            found.append(str(json.loads(text)))
        except ValueError:  # an escape of the predicate language that JSON has not
            found.append(text[1:-1])
    return found


def _listed(tokens: Sequence[str]) -> str:
    return ("the token " if len(tokens) == 1 else "the tokens ") + ", ".join(map(json.dumps, tokens))
