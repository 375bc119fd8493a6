"""Yes or no for each item of a reply, with its probability where the server gives token log-probabilities.

The reply is `{"answers": {"1": "yes", "2": "no", ...}}`. Probabilities: 1. the tokens are laid along the reply's text;
2. the token in which the first letter of an answer stands decides between yes and no; 3. its alternatives are read as
if they stood in its place, whatever quotes and spaces their tokens begin with; 4. e = p(yes) / (p(yes) + p(no)).
Where the tokens do not spell the reply, an answer is not found in it, or the other answer is not among the listed
alternatives although it could weigh as much, that item has no probability.
"""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

from autointerp.llm import TokenLogprobs

YES, NO = ("yes", "true"), ("no", "false")
UNSEEN = 0.1  # of the answer's probability: what the other answer may have and not be listed
_BEFORE_WORD = " \t\r\n\"'`:,{["


def answers_schema(n: int) -> dict[str, Any]:
    """The JSON schema of a reply for items 1 to n."""
    answer = {"type": "string", "enum": ["yes", "no"]}
    names = [str(number) for number in range(1, n + 1)]
    answers = {
        "type": "object",
        "properties": {name: answer for name in names},
        "required": names,
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {"answers": answers},
        "required": ["answers"],
        "additionalProperties": False,
    }


def read_answers(reply: Mapping[str, Any], n: int) -> list[bool]:
    """The answers of items 1 to n. Raises ValueError for one missing, one too many, or one that is neither."""
    answers = reply.get("answers")
    if isinstance(answers, list):  # weak models leave the numbers away
        answers = {str(number): answer for number, answer in enumerate(answers, 1)}
    if not isinstance(answers, Mapping):
        raise ValueError(f"answers must hold an object with the numbers 1 to {n}, not {json.dumps(answers)[:40]}")
    wanted = [str(number) for number in range(1, n + 1)]
    missing = [name for name in wanted if name not in answers]
    if missing or len(answers) != n:
        raise ValueError(f"answers must hold the numbers 1 to {n} and no other; {len(answers)} found")
    return [_answer(name, answers[name]) for name in wanted]


def _answer(name: str, value: object) -> bool:
    word = value.strip().lower() if isinstance(value, str) else value
    if isinstance(word, bool):
        return word
    if word not in ("yes", "no"):
        raise ValueError(f"answer {name} is {json.dumps(value)[:40]}, not yes or no")
    return word == "yes"


def yes_probabilities(
    text: str, logprobs: Sequence[TokenLogprobs] | None, answers: Sequence[bool]
) -> list[float | None]:
    """e in [0, 1] of each item, None where it could not be found. `answers` are those read from the same text."""
    tokens = None if not logprobs else _laid_along(text, logprobs)
    if tokens is None:
        return [None] * len(answers)
    starts = [start for start, _ in tokens]
    found: list[float | None] = []
    for number, answer in enumerate(answers, 1):
        place = _place(text, number, len(answers), answer=answer)
        index = -1 if place is None else bisect_right(starts, place) - 1
        found.append(None if index < 0 or place is None else _odds(tokens[index][1], place - starts[index]))
    return found


def _laid_along(text: str, logprobs: Sequence[TokenLogprobs]) -> list[tuple[int, TokenLogprobs]] | None:
    """Tokens with the place in `text` where each begins; None unless they spell it. Markers before and after the
    text, and white space around it, may be there in one and not in the other."""
    spelled = "".join(t.token for t in logprobs)
    core = text.strip()
    shift = spelled.rfind(core) if core else -1
    if shift < 0:
        return None
    shift -= len(text) - len(text.lstrip())
    found: list[tuple[int, TokenLogprobs]] = []
    at = -shift
    for token in logprobs:
        found.append((at, token))
        at += len(token.token)
    return found


def _place(text: str, number: int, n: int, *, answer: bool) -> int | None:
    """Where the first letter of an item's answer stands; None unless the word there is the answer that was read."""
    value = r"\s*\"?\s*(?P<word>yes|no|true|false)\b"
    matches = list(re.finditer(rf'"{number}"\s*:{value}', text, re.IGNORECASE))
    if not matches:
        listed = list(re.finditer(rf"[\[,]{value}", text, re.IGNORECASE))
        matches = [listed[number - 1]] if len(listed) == n else []
    if not matches or (matches[-1]["word"].lower() in YES) != answer:
        return None
    return matches[-1].start("word")


def _odds(token: TokenLogprobs, offset: int) -> float | None:
    """p(yes) / (p(yes) + p(no)) at a token that holds `offset` characters before the answer."""
    prefix = token.token[:offset]
    masses = {True: 0.0, False: 0.0}
    for text, logprob in {token.token: token.logprob, **dict(token.top)}.items():
        rest = text[offset:] if text.startswith(prefix) else text.lstrip(_BEFORE_WORD)
        side = _side(rest)
        if side is not None:
            masses[side] += math.exp(min(logprob, 0.0))
    total = masses[True] + masses[False]
    if min(masses.values()) == 0 and _unlisted(token) > UNSEEN * total:
        return None  # servers that enforce a schema list what the model would have said without it
    return masses[True] / total if total > 0 else None


def _unlisted(token: TokenLogprobs) -> float:
    """The largest probability that a token outside the list can have."""
    listed = {token.token: token.logprob, **dict(token.top)}
    masses = [math.exp(min(logprob, 0.0)) for logprob in listed.values()]
    left = max(0.0, 1 - sum(masses))
    lowest = min((math.exp(min(logprob, 0.0)) for _, logprob in token.top), default=1.0)
    return min(left, lowest)


def _side(text: str) -> bool | None:
    """Whether a token that stands where an answer begins says yes; None where it says neither."""
    letters = re.match(r"[A-Za-z]*", text.lstrip(_BEFORE_WORD))
    word = letters[0].lower() if letters else ""
    if not word:
        return None
    if any(yes.startswith(word) for yes in YES):
        return True
    return False if any(no.startswith(word) for no in NO) else None
