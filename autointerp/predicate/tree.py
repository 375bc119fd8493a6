"""The tree of a predicate: frozen nodes that print in the language they were read from.

A *value* is what a comparison compares (`Token`, `Distance`, `Attribute`, `Literal`), a *condition* is true
or false for a pair of positions. Trees are built by `parser` only: it checks the kinds, joins nested `and` or
`or` of one sort, and drops repeated literals, so that printing and reading again gives an equal tree.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal as OneOf


class Kind(StrEnum):
    """What sort of thing a value is; only values of one kind are compared."""

    TOKEN = "token"
    TEXT = "text"
    NUMBER = "number"
    FLAG = "true/false"


ATTRIBUTES: dict[str, Kind] = {
    "text": Kind.TEXT,
    "lower": Kind.TEXT,
    "position": Kind.NUMBER,
    "length": Kind.NUMBER,
    "is_first": Kind.FLAG,
    "is_special": Kind.FLAG,
    "is_word_start": Kind.FLAG,
    "is_word": Kind.FLAG,
    "is_capitalised": Kind.FLAG,
    "is_number": Kind.FLAG,
    "is_punctuation": Kind.FLAG,
    "is_open_bracket": Kind.FLAG,
    "is_close_bracket": Kind.FLAG,
    "is_quote": Kind.FLAG,
    "is_newline": Kind.FLAG,
    "is_space": Kind.FLAG,
    "seen_before": Kind.FLAG,
}
"""Every attribute of a token, with its kind."""

Side = OneOf["dst", "src"]
Sign = OneOf["==", "!=", "<", "<=", ">", ">="]
Choice = OneOf["nearest", "first", "all"]
Test = OneOf["contains", "startswith", "endswith"]


@dataclass(frozen=True, slots=True)
class Token:
    """`dst` or `src`, moved by `shift` positions: -2 prints as `.prev.prev`, 1 as `.next` (src only)."""

    side: Side
    shift: int = 0

    def __str__(self) -> str:
        return self.side + ".prev" * -self.shift + ".next" * self.shift

    @property
    def kind(self) -> Kind:
        return Kind.TOKEN


@dataclass(frozen=True, slots=True)
class Distance:
    """`dst.position - src.position`, in tokens, 0 for the token itself."""

    def __str__(self) -> str:
        return "distance"

    @property
    def kind(self) -> Kind:
        return Kind.NUMBER


@dataclass(frozen=True, slots=True)
class Attribute:
    """A property of a token; those of kind FLAG are conditions by themselves."""

    token: Token
    name: str

    def __str__(self) -> str:
        return f"{self.token}.{self.name}"

    @property
    def kind(self) -> Kind:
        return ATTRIBUTES[self.name]


@dataclass(frozen=True, slots=True)
class Literal:
    """A string, a number, or `True`/`False` (the two are conditions by themselves)."""

    value: str | int | float | bool  # int is spelled out: run-time checkers do not count it as a float

    def __str__(self) -> str:
        return quote(self.value) if isinstance(self.value, str) else repr(self.value)

    @property
    def kind(self) -> Kind:
        if isinstance(self.value, str):
            return Kind.TEXT
        return Kind.FLAG if isinstance(self.value, bool) else Kind.NUMBER


Value = Token | Distance | Attribute | Literal


@dataclass(frozen=True, slots=True)
class Compare:
    """A chain such as `1 <= distance <= 4`: each neighbouring pair of operands is compared, all must hold."""

    operands: tuple[Value, ...]
    signs: tuple[Sign, ...]

    def __str__(self) -> str:
        rest = zip(self.signs, self.operands[1:], strict=True)
        return str(self.operands[0]) + "".join(f" {sign} {operand}" for sign, operand in rest)


@dataclass(frozen=True, slots=True)
class Member:
    """`value in {..}`, or `not in` (false, as every comparison, for a missing token)."""

    value: Value
    items: tuple[str, ...] | tuple[int | float, ...]
    negated: bool = False

    def __str__(self) -> str:
        listed = ", ".join(str(Literal(item)) for item in self.items)
        return f"{self.value} {'not in' if self.negated else 'in'} {{{listed}}}"


@dataclass(frozen=True, slots=True)
class StringTest:
    """`value.startswith("x")`, `.endswith`, or `"x" in value` (also written `.contains`)."""

    value: Value
    test: Test
    literal: str
    negated: bool = False

    def __str__(self) -> str:
        if self.test == "contains":
            return f"{quote(self.literal)} {'not in' if self.negated else 'in'} {self.value}"
        return f"{self.value}.{self.test}({quote(self.literal)})"


@dataclass(frozen=True, slots=True)
class Not:
    operand: Condition

    def __str__(self) -> str:
        bare = isinstance(self.operand, Attribute | Literal | Select | AnyBefore | Not)
        return f"not {self.operand}" if bare else f"not ({self.operand})"


@dataclass(frozen=True, slots=True)
class And:
    operands: tuple[Condition, ...]

    def __str__(self) -> str:
        return " and ".join(f"({part})" if isinstance(part, Or) else str(part) for part in self.operands)


@dataclass(frozen=True, slots=True)
class Or:
    operands: tuple[Condition, ...]

    def __str__(self) -> str:
        return " or ".join(f"({part})" if isinstance(part, And) else str(part) for part in self.operands)


@dataclass(frozen=True, slots=True)
class Select:
    """Of the sources of a destination that match: the nearest, the first of the row, or all of them."""

    choice: Choice
    operand: Condition

    def __str__(self) -> str:
        return f"{self.choice}({self.operand})"


@dataclass(frozen=True, slots=True)
class AnyBefore:
    """True for a destination where some source strictly before it matches: a condition of the destination alone."""

    operand: Condition

    def __str__(self) -> str:
        return f"any({self.operand})"


Condition = Attribute | Literal | Compare | Member | StringTest | Not | And | Or | Select | AnyBefore


def names_source(node: Condition | Value) -> bool:
    """Whether the tree speaks of a source of its own, outside any(..): then it is no condition of one position."""
    match node:
        case Token():
            return node.side == "src"
        case Attribute():
            return node.token.side == "src"
        case Distance() | Select():
            return True
        case Literal() | AnyBefore():
            return False
        case Not():
            return names_source(node.operand)
        case Member() | StringTest():
            return names_source(node.value)
        case And() | Or() | Compare():
            return any(names_source(part) for part in node.operands)


def searches_back(node: Condition | Value) -> bool:
    """Whether the tree contains an any(..)."""
    match node:
        case AnyBefore():
            return True
        case Not() | Select():
            return searches_back(node.operand)
        case And() | Or():
            return any(searches_back(part) for part in node.operands)
    return False


def count_nodes(node: Condition | Value) -> int:
    """Size of a tree: an attribute, a literal and a whole set of literals count one each."""
    if isinstance(node, And | Or | Compare):
        return 1 + sum(count_nodes(part) for part in node.operands)
    if isinstance(node, Not | Select | AnyBefore):
        return 1 + count_nodes(node.operand)
    if isinstance(node, Member | StringTest):
        return 2 + count_nodes(node.value)
    return 1


def quote(text: str) -> str:
    """A string literal that reads back as `text` whatever it holds: quotes, line breaks, lone surrogates."""
    return '"' + "".join(_escape(character) for character in text) + '"'


def _escape(character: str) -> str:
    named = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    code = ord(character)
    if character in named:
        return named[character]
    if code < 0x20 or 0x7F <= code < 0xA0:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if 0xD800 <= code < 0xE000 else character
