"""Predicates about one position in plain words: `dst.prev.lower == "new"` reads "the token before is 'new'"."""

from __future__ import annotations

import json

from autointerp.predicate import Predicate
from autointerp.predicate.tree import (
    And,
    AnyBefore,
    Attribute,
    Compare,
    Condition,
    Distance,
    Literal,
    Member,
    Not,
    Or,
    Select,
    StringTest,
    Token,
    Value,
)

_FLAGS = {
    "is_first": "is the first of the text",
    "is_special": "is a control token",
    "is_word_start": "begins a word",
    "is_word": "is a word or part of one",
    "is_capitalised": "is capitalised",
    "is_number": "is a number",
    "is_punctuation": "is punctuation",
    "is_open_bracket": "is an opening bracket",
    "is_close_bracket": "is a closing bracket",
    "is_quote": "is a quotation mark",
    "is_newline": "is a line break",
    "is_space": "is white space",
    "seen_before": "stood earlier in the text",
}
_SIGNS = {"==": "is", "!=": "is not", "<": "is below", "<=": "is at most", ">": "is above", ">=": "is at least"}
_TESTS = {
    "contains": ("contains", "does not contain"),
    "startswith": ("begins with", "does not begin with"),
    "endswith": ("ends in", "does not end in"),
}


def in_words(predicate: Predicate) -> str:
    """What the predicate says, as a clause about "the token"."""
    return _clause(predicate.tree, inner=False)


def quoted(text: str) -> str:
    """A token as it is quoted in descriptions."""
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _clause(node: Condition, *, inner: bool) -> str:
    match node:
        case And() | Or():
            said = (" and " if isinstance(node, And) else " or ").join(_clause(p, inner=True) for p in node.operands)
            return f"({said})" if inner else said
        case Not():
            return f"it is not so that {_clause(node.operand, inner=True)}"
        case AnyBefore():
            return f"for an earlier token {_clause(node.operand, inner=True)}"
        case Select():
            return f"for the {node.choice} earlier token with this: {_clause(node.operand, inner=True)}"
        case Compare():
            return _comparison(node)
        case Member():
            listed = ", ".join(quoted(item) if isinstance(item, str) else str(item) for item in node.items)
            return f"{_thing(node.value)} is {'none' if node.negated else 'one'} of {listed}"
        case StringTest():
            return f"{_thing(node.value)} {_TESTS[node.test][node.negated]} {quoted(node.literal)}"
        case Attribute():
            return f"{_thing(node.token)} {_FLAGS[node.name]}"
        case Literal():
            return "it is any token" if node.value else "never"


def _comparison(node: Compare) -> str:
    parts = []
    for left, sign, right in zip(node.operands, node.signs, node.operands[1:], strict=False):
        if isinstance(left, Literal):  # 1 <= distance reads: distance is at least 1
            left, right = right, left
            sign = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}.get(sign, sign)  # type: ignore[assignment]
        parts.append(f"{_thing(left)} {_SIGNS[sign]} {_thing(right)}")
    return " and ".join(parts)


def _thing(value: Value) -> str:
    match value:
        case Token():
            return _token(value)
        case Distance():
            return "its distance"
        case Literal():
            return quoted(value.value) if isinstance(value.value, str) else str(value.value)
        case Attribute():
            token = _token(value.token)
            if value.name in ("text", "lower"):
                return token
            return f"whether {token} {_FLAGS[value.name]}" if value.name in _FLAGS else f"the {value.name} of {token}"


def _token(token: Token) -> str:
    name = "the token" if token.side == "dst" else "it"
    if token.shift == 0:
        return name
    place = "after" if token.shift > 0 else "before" if token.shift == -1 else f"{-token.shift} before"
    return f"the token {place}" if token.side == "dst" else f"the token {place} it"
