"""Find the tokens of a word or phrase by character offsets (attention_evidence section 8).

1. A needle is looked for in the text; each place where it stands is a candidate, and so is, where a space
   precedes it, the same place with that space (`space`: `allow` both, `require` the space, `forbid` it).
2. With `whole_tokens` a candidate counts if it begins and ends on token borders and is not a part of a
   larger word ("US" in "RUSSIA", even where the tokenizer cuts R|US|SIA); without, it counts with all
   tokens that it touches.
3. Of two candidates at one place the earlier start wins, then the shorter span.

Positions count the ids really fed, BOS included when it is fed. Token strings are never compared: the
vocabulary's markers for spaces and newlines do not occur here. A token of a split character has the whole
character's range, so that a needle finds all its tokens; specials have an empty range and are never found.
Regular expressions and the scopes of program text are out; any span can be a scope.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypedDict, Unpack, overload

import numpy as np
import numpy.typing as npt
from jaxtyping import Int64

from autointerp.errors import BadInput
from autointerp.needle import inside_word, nearest, occurrences

Space = Literal["allow", "require", "forbid"]
Ids = Sequence[int] | npt.NDArray[np.integer]


@dataclass(frozen=True)
class TokenSpan:
    """Tokens `start` to `stop` (half-open, positions as fed), and the characters that they cover.

    Iterating and indexing give positions, slicing a shorter span; `index` is the position of a single token.
    """

    start: int
    stop: int
    char_start: int
    char_stop: int
    text: str
    _finder: TokenFinder = field(repr=False, compare=False)

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.stop))

    @overload
    def __getitem__(self, key: int) -> int: ...
    @overload
    def __getitem__(self, key: slice) -> TokenSpan: ...
    def __getitem__(self, key: int | slice) -> int | TokenSpan:
        """Position of the key-th token, or the span of a slice; BadInput for an empty or stepped slice."""
        if not isinstance(key, slice):
            return range(self.start, self.stop)[key]
        part = range(self.start, self.stop)[key]
        if len(part) == 0 or part.step != 1:
            raise BadInput(f"{key} of the {len(self)}-token span {self.text!r} is no span; slice whole runs of it.")
        return self._finder.span(part.start, part.stop)

    @property
    def index(self) -> int:
        """Position of the only token; raises BadInput for a longer span."""
        if len(self) != 1:
            raise BadInput(
                f"the span {self.text!r} has {len(self)} tokens ({self.start} to {self.stop - 1}), not one; "
                "take a part of it, such as span[0] or span[-1]."
            )
        return self.start


class MatchOptions(TypedDict, total=False):
    """How a needle has to stand in the text: the keyword arguments of every `find_` method.

    `scope`: only inside this span (None) · `space`: whether a leading space of the first token is allowed,
    required or forbidden (allow) · `case`: upper and lower case differ (True) · `whole_tokens`: see the
    module (True) · `allow_partial_last`: the last token, and its word, may go on after the needle (False).
    """

    scope: TokenSpan | None
    space: Space
    case: bool
    whole_tokens: bool
    allow_partial_last: bool


@dataclass(frozen=True)
class _Match:
    scope: TokenSpan | None = None
    space: Space = "allow"
    case: bool = True
    whole_tokens: bool = True
    allow_partial_last: bool = False

    def __post_init__(self) -> None:
        if self.space not in ("allow", "require", "forbid"):
            raise BadInput(f"space={self.space!r} is not known; it is allow, require or forbid.")


class TokenFinder:
    """Finds spans in one text; `ids` and `offsets` as the tokenizer gives them, without specials.

    `bos_id` is the run's BOS rule: the id that is fed first, or None where none is. Positions then count it.
    Raises BadInput where ids, offsets and text do not belong together, or BOS would be fed twice.
    """

    def __init__(self, text: str, ids: Ids, offsets: npt.ArrayLike, *, bos_id: int | None) -> None:
        fed = np.asarray(ids, dtype=np.int64).reshape(-1)
        ranges = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)
        if bos_id is not None:
            if len(fed) and fed[0] == bos_id and len(ranges) and ranges[0, 0] == ranges[0, 1]:
                raise BadInput(f"the ids begin with BOS ({bos_id}) already; leave it out, or use `fed`.")
            fed = np.concatenate([[bos_id], fed])
            ranges = np.concatenate([[[0, 0]], ranges])
        self._setup(text, fed, ranges)

    @classmethod
    def fed(cls, text: str, ids: Ids, offsets: npt.ArrayLike) -> TokenFinder:
        """A finder of ids exactly as fed (BOS among them, with an empty range), such as a corpus window."""
        return cls(text, ids, offsets, bos_id=None)

    def _setup(self, text: str, ids: npt.NDArray[np.int64], ranges: npt.NDArray[np.int64]) -> None:
        if len(ids) != len(ranges):
            raise BadInput(f"{len(ids)} ids but {len(ranges)} offsets; give those of one encoding.")
        if len(ranges) and (ranges.min() < 0 or ranges.max() > len(text) or (ranges[:, 0] > ranges[:, 1]).any()):
            raise BadInput(f"offsets {ranges.min()} to {ranges.max()} in a text of {len(text)} characters.")
        self.text, self.ids = text, ids
        self._ranges = ranges
        self._visible = np.flatnonzero(ranges[:, 1] > ranges[:, 0])
        starts, self._stops = ranges[self._visible, 0].copy(), ranges[self._visible, 1]
        if (np.diff(starts) < 0).any() or (np.diff(self._stops) < 0).any():
            raise BadInput("offsets go backwards: they are not a text's in order; check the tokenizer.")
        # Some tokenizers leave a token's leading space out of its range: it is the token's all the same.
        for row in range(len(starts)):
            while starts[row] > (self._stops[row - 1] if row else 0) and text[starts[row] - 1] == " ":
                starts[row] -= 1
        self._starts = starts

    def __len__(self) -> int:
        return len(self.ids)

    def span(self, start: int, stop: int) -> TokenSpan:
        """The span of tokens `start` to `stop` (half-open)."""
        if not 0 <= start < stop <= len(self):
            raise BadInput(f"tokens {start} to {stop} are no span of the {len(self)} fed; give 0 <= start < stop.")
        ranges = self._ranges[start:stop]
        covered = ranges[ranges[:, 1] > ranges[:, 0]]
        first, last = (int(covered[0, 0]), int(covered[:, 1].max())) if len(covered) else map(int, ranges[0])
        return TokenSpan(start, stop, first, last, self.text[first:last], self)

    def find_all(self, needle: str, **options: Unpack[MatchOptions]) -> list[TokenSpan]:
        """All spans of `needle`, in order; empty where there is none. BadInput for an empty needle."""
        match = _Match(**options)
        found = [self.span(*spans[0]) for spans in self._places(needle, match)]
        return list(dict.fromkeys(found))

    def find_first_range(self, needle: str, **options: Unpack[MatchOptions]) -> TokenSpan:
        """The first span of `needle`, of one token or more; raises BadInput where there is none."""
        match = _Match(**options)
        for spans in self._places(needle, match):
            return self.span(*spans[0])
        raise self._not_found(needle, match)

    def find_first(self, needle: str, **options: Unpack[MatchOptions]) -> TokenSpan:
        """The first place of `needle`, which must be one token; raises BadInput otherwise."""
        return self._single(needle, _Match(**options), last=False)

    def find_last(self, needle: str, **options: Unpack[MatchOptions]) -> TokenSpan:
        """The last place of `needle`, which must be one token; raises BadInput otherwise."""
        return self._single(needle, _Match(**options), last=True)

    def _single(self, needle: str, match: _Match, *, last: bool) -> TokenSpan:
        places = list(self._places(needle, match))
        if not places:
            raise self._not_found(needle, match)
        spans = places[-1 if last else 0]
        single = next((span for span in spans if span[1] - span[0] == 1), None)
        if single is None:
            start, stop = spans[0]
            raise BadInput(
                f"{needle!r} is {stop - start} tokens ({start} to {stop - 1}), not one; use find_first_range."
            )
        return self.span(*single)

    def _places(self, needle: str, match: _Match) -> Iterator[list[tuple[int, int]]]:
        """For each place of the needle that counts, its token spans, the best first."""
        if not needle:
            raise BadInput("the needle is empty (''); give at least one character to look for.")
        low, high = 0, len(self)
        if match.scope is not None:
            self.check_own(match.scope)
            low, high = match.scope.start, match.scope.stop
        for first, last in occurrences(self.text, needle, case=match.case):
            candidates = {self._tokens_of(first, last, match), self._spaced(first, last, match)}
            spans = sorted(span for span in candidates if span is not None and low <= span[0] and span[1] <= high)
            if spans:
                yield spans

    def _tokens_of(self, first: int, last: int, match: _Match) -> tuple[int, int] | None:
        """Tokens of the characters `first` to `last` as they are, without a space before them."""
        spaced = self.text[first] == " " or (not match.whole_tokens and self.text[max(0, first - 1) : first] == " ")
        if (match.space == "require" and not spaced) or (match.space == "forbid" and spaced):
            return None
        return self._cover(first, last, match)

    def _spaced(self, first: int, last: int, match: _Match) -> tuple[int, int] | None:
        """Tokens of the same characters with the spaces before them."""
        if match.space == "forbid" or not match.whole_tokens or self.text[first] == " ":
            return None
        row = int(np.searchsorted(self._starts, first, side="left")) - 1
        begin = int(self._starts[row]) if row >= 0 else first
        # Several spaces count only within the needle's own token; a token that is one space counts too.
        own = begin == first - 1 or (row >= 0 and int(self._stops[row]) > first)
        if not own or self.text[begin:first].strip(" "):
            return None
        return self._cover(begin, last, match)

    def _cover(self, first: int, last: int, match: _Match) -> tuple[int, int] | None:
        left = int(np.searchsorted(self._stops, first, side="right"))
        right = int(np.searchsorted(self._starts, last, side="left")) - 1
        if left > right:
            return None
        if match.whole_tokens:
            ends = match.allow_partial_last or (self._stops[right] == last and not inside_word(self.text, last))
            if self._starts[left] != first or inside_word(self.text, first) or not ends:
                return None
        return int(self._visible[left]), int(self._visible[right]) + 1

    def check_own(self, span: TokenSpan) -> None:
        """Raise BadInput where `span` is not one of this text."""
        if span.stop > len(self) or self.span(span.start, span.stop) != span:
            raise BadInput(f"{span.text!r} ({span.start} to {span.stop}) is a span of another text, not of this one.")

    def _not_found(self, needle: str, match: _Match) -> BadInput:
        scope = range(len(self)) if match.scope is None else match.scope
        visible = set(self._visible.tolist())
        near = nearest(needle, {self.span(at, at + 1).text: at for at in reversed(scope) if at in visible})
        where = ("scope" if match.scope else "text") + (" as whole tokens" if match.whole_tokens else "")
        return BadInput(
            f"{needle!r} is not in the {where}; the nearest tokens are {near or 'none'}. Check spelling, "
            "case and space" + (", or use whole_tokens=False." if match.whole_tokens else ".")
        )


Role = str | TokenSpan | Sequence[str | TokenSpan]


def role_positions(
    prompts: Sequence[TokenFinder], roles: Mapping[str, Role], *, range: bool = False
) -> Int64[np.ndarray, "batch role ..."]:
    """Where each role stands in each prompt, roles in the order of the mapping.

    A role is a needle or a span, one for all prompts or a sequence with one a prompt; a needle stands for
    its first place. Gives one position each, `[batch role]`, and refuses a role of several tokens; with
    `range=True` gives half-open ranges, `[batch role 2]`. Raises BadInput that names the prompt and the
    role.
    """
    if not prompts or not roles:
        raise BadInput(f"{len(prompts)} prompts and {len(roles)} roles; give at least one of each.")
    found = np.empty((len(prompts), len(roles), 2), dtype=np.int64)
    for column, (name, role) in enumerate(roles.items()):
        each = [role] * len(prompts) if isinstance(role, str | TokenSpan) else list(role)
        if len(each) != len(prompts):
            raise BadInput(f"role {name!r} has {len(each)} entries for {len(prompts)} prompts; give one a prompt.")
        for row, (finder, wanted) in enumerate(zip(prompts, each, strict=True)):
            try:
                found[row, column] = _role_range(finder, wanted, single=not range)
            except BadInput as error:
                raise BadInput(f"prompt {row}, role {name!r}: {error}") from None
    return found if range else found[:, :, 0]


def _role_range(finder: TokenFinder, wanted: str | TokenSpan, *, single: bool) -> tuple[int, int]:
    if isinstance(wanted, str):
        span = finder.find_first(wanted) if single else finder.find_first_range(wanted)
    else:
        finder.check_own(wanted)
        span = wanted
    return (span.index, span.stop) if single else (span.start, span.stop)
