"""From Python's expression tree to ours: a whitelist of node types, kinds checked, advice for the rest."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable
from typing import NoReturn

from autointerp.errors import PredicateError
from autointerp.predicate.tree import (
    ATTRIBUTES,
    And,
    AnyBefore,
    Attribute,
    Choice,
    Compare,
    Condition,
    Distance,
    Kind,
    Literal,
    Member,
    Not,
    Or,
    Select,
    Side,
    Sign,
    StringTest,
    Test,
    Token,
    Value,
    names_source,
)

MAX_PREV = 3
MAX_NUMBER = 1e9

_SIDES: dict[str, Side] = {"dst": "dst", "src": "src"}
_CHOICES: dict[str, Choice] = {"nearest": "nearest", "first": "first", "all": "all"}
_TESTS: dict[str, Test] = {"contains": "contains", "startswith": "startswith", "endswith": "endswith"}
_SIGNS: dict[type[ast.cmpop], Sign] = {
    ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=",
}  # fmt: skip
_SPELLINGS = {"is_capitalized": "is_capitalised"}
_NAMES = ("dst", "src", "distance", "True", "False")
_FUNCTIONS = (*_CHOICES, "any")
_STEPS = ("prev", "next")
_ADVICE: dict[type[ast.AST], str] = {
    ast.BinOp: "arithmetic and & | are not part of the language; use distance, and, or",
    ast.IfExp: "write `(a and b) or (not a and c)` instead of `b if a else c`",
    ast.Lambda: "there are no functions to define",
    ast.Subscript: "use .startswith or .endswith instead of [..]",
    ast.JoinedStr: "write a plain string",
    ast.Set: "write `src.lower in {..}`",
    ast.Starred: "list the strings one by one",
    ast.Call: "attributes take no parentheses (src.lower), and there is no len (src.length)",
}


class Reader:
    """Reads the nodes of one source line; `margin` is the number of characters cut off before it.

    With `positional`, src, distance and the choices among sources are refused outside any(..).
    """

    def __init__(self, source: str, margin: int, *, positional: bool = False) -> None:
        self._bytes = source.encode("utf-8", "surrogatepass")
        self._margin = margin
        self._sources = not positional

    def condition(self, node: ast.expr) -> Condition:
        """A condition, or PredicateError."""
        match node:
            case ast.BoolOp():
                return self._junction(node)
            case ast.UnaryOp(op=ast.Not()):
                return Not(self.condition(node.operand))
            case ast.Compare(ops=[ast.In() | ast.NotIn()]):
                return self._membership(node)
            case ast.Compare():
                return self._comparison(node)
            case ast.Call():
                return self._call(node)
        value = self._value(node)
        if isinstance(value, Attribute | Literal) and value.kind is Kind.FLAG:
            return value
        self._fail(node, f"{value} is a {value.kind}, no condition; compare it: {_comparison_with(value)}")

    def _junction(self, node: ast.BoolOp) -> Condition:
        sort: type[And] | type[Or] = And if isinstance(node.op, ast.And) else Or
        parts: list[Condition] = []
        for child in node.values:
            part = self.condition(child)
            parts.extend(part.operands if isinstance(part, And | Or) and isinstance(part, sort) else [part])
        return sort(tuple(parts))

    def _comparison(self, node: ast.Compare) -> Compare:
        places = [node.left, *node.comparators]
        signs: list[Sign] = []
        for operator, place in zip(node.ops, node.comparators, strict=True):
            if type(operator) not in _SIGNS:
                self._fail(place, "`is` and chained `in` are not part of the language; use == and one `in`")
            signs.append(_SIGNS[type(operator)])
        values = [self._value(place) for place in places]
        for index, sign in enumerate(signs):
            self._check_pair(places[index + 1], values[index], sign, values[index + 1])
        return Compare(tuple(values), tuple(signs))

    def _check_pair(self, place: ast.expr, left: Value, sign: Sign, right: Value) -> None:
        if isinstance(left, Literal) and isinstance(right, Literal):
            self._fail(place, "two constants are compared; one side must be a token's attribute or distance")
        if left.kind is not right.kind:
            hint = "; compare .text or .lower with a string" if Kind.TOKEN in (left.kind, right.kind) else ""
            self._fail(place, f"{left} is a {left.kind} and {right} a {right.kind}, never equal{hint}")
        if sign not in ("==", "!=") and left.kind is not Kind.NUMBER:
            self._fail(place, f"{sign} compares numbers only, {left} is a {left.kind}; use == or !=")
        for value, other in ((left, right), (right, left)):
            if isinstance(other, Literal) and isinstance(other.value, str):
                self._check_lower(place, value, [other.value], whole=True)

    def _membership(self, node: ast.Compare) -> Condition:
        negated = isinstance(node.ops[0], ast.NotIn)
        right = node.comparators[0]
        if isinstance(node.left, ast.Constant) and isinstance(node.left.value, str):
            return self._string_test(right, "contains", node.left, negated=negated)
        value = self._value(node.left)
        if not isinstance(right, ast.Set | ast.List | ast.Tuple) or not right.elts:
            self._fail(right, '`in` needs constants, as in {"a", "b"}; "x" in src.text tests for a part')
        if isinstance(value, Literal) or value.kind not in (Kind.TEXT, Kind.NUMBER):
            self._fail(node.left, f"{value} cannot be in a set; use .text or .lower, a number or distance")
        items = [self._literal(element) for element in right.elts]
        for element, item in zip(right.elts, items, strict=True):
            if item.kind is not value.kind:
                self._fail(element, f"{item} is a {item.kind} and {value} a {value.kind}, never equal")
        if value.kind is Kind.TEXT:
            texts = [str(item.value) for item in items]
            self._check_lower(right, value, texts, whole=True)
            return Member(value, tuple(dict.fromkeys(texts)), negated)
        numbers = [item.value for item in items if not isinstance(item.value, str)]
        return Member(value, tuple(dict.fromkeys(numbers)), negated)

    def _call(self, node: ast.Call) -> Condition:
        function, arguments = node.func, node.args
        if node.keywords or len(arguments) != 1:
            self._fail(node, "nearest, first, all, any, contains, startswith, endswith take one argument each")
        if isinstance(function, ast.Name):
            if function.id not in _FUNCTIONS:
                self._unknown(function, "function", function.id, _FUNCTIONS)
            if function.id == "any":
                return self._any(arguments[0])
            self._check_source(function, f"{function.id}(..)")
            return Select(_CHOICES[function.id], self.condition(arguments[0]))
        if isinstance(function, ast.Attribute):
            if function.attr not in _TESTS:
                self._unknown(function, "string test", function.attr, _TESTS)
            return self._string_test(function.value, _TESTS[function.attr], arguments[0])
        self._fail(node, "only nearest, first, all and any can be called")

    def _any(self, argument: ast.expr) -> AnyBefore:
        outside, self._sources = self._sources, True
        operand = self.condition(argument)
        self._sources = outside
        if not names_source(operand):
            self._fail(argument, f"any({operand}) says nothing of an earlier token; write src in it, or leave any out")
        return AnyBefore(operand)

    def _check_source(self, place: ast.expr, name: str) -> None:
        """Refuse a source where only one position is spoken of."""
        if not self._sources:
            self._fail(place, f"{name} stands outside any(..), but the rule is about one position, dst; "
                              "write dst, or any(CONDITION on src) for an earlier token")  # fmt: skip

    def _string_test(self, place: ast.expr, test: Test, argument: ast.expr, *, negated: bool = False) -> StringTest:
        value, literal = self._value(place), self._literal(argument)
        if value.kind is not Kind.TEXT or isinstance(value, Literal):
            self._fail(place, f"{value} is a {value.kind}; parts are looked for in .text or .lower")
        if not isinstance(literal.value, str):
            self._fail(argument, f"{literal} is a {literal.kind}; a part of a string is a string")
        self._check_lower(argument, value, [literal.value], whole=False)
        return StringTest(value, test, literal.value, negated)

    def _check_lower(self, place: ast.expr, value: Value, literals: Iterable[str], *, whole: bool) -> None:
        """Refuse a literal that `.lower` can never hold: the condition would silently be false everywhere."""
        if not isinstance(value, Attribute) or value.name != "lower":
            return
        for literal in literals:
            folded = literal.strip().casefold() if whole else literal.casefold()
            if folded != literal:
                advice = f'write "{folded}" or use .text'
                self._fail(place, f"{value} is lower case with no spaces around it; {advice}")

    def _value(self, node: ast.expr) -> Value:
        match node:
            case ast.Name(id="distance"):
                self._check_source(node, "distance")
                return Distance()
            case ast.Name() | ast.Attribute():
                return self._token_or_attribute(node)
            case ast.Constant() | ast.UnaryOp(op=ast.USub() | ast.UAdd()):
                return self._literal(node)
        place = node.func if isinstance(node, ast.Call) else node
        self._fail(place, "this is not part of the language: " + _advice(node))

    def _token_or_attribute(self, node: ast.Name | ast.Attribute) -> Token | Attribute:
        steps: list[ast.Attribute] = []
        base: ast.expr = node
        while isinstance(base, ast.Attribute):
            steps.insert(0, base)
            base = base.value
        if not isinstance(base, ast.Name):
            self._fail(base, "attributes belong to dst and src only; " + _advice(base))
        if base.id not in _SIDES:
            self._unknown(base, "name", base.id, _NAMES)
        if base.id == "src":
            self._check_source(base, "src")
        token = Token(_SIDES[base.id])
        for place in steps[:-1]:
            token = self._move(place, token)
        if not steps:
            return token
        name = _SPELLINGS.get(steps[-1].attr, steps[-1].attr)
        return Attribute(token, name) if name in ATTRIBUTES else self._move(steps[-1], token)

    def _move(self, place: ast.Attribute, token: Token) -> Token:
        if place.attr == "prev" and -MAX_PREV < token.shift <= 0:
            return Token(token.side, token.shift - 1)
        if place.attr == "next" and token == Token("src"):
            return Token("src", 1)
        if place.attr == "next" and token.side == "dst":
            self._fail(place, "dst.next is the future, which no token can see; use src.next, or dst.prev")
        if place.attr in _STEPS:
            self._fail(place, f"{token}.{place.attr} is too far; up to {MAX_PREV} .prev, or one src.next")
        if place.attr in ATTRIBUTES:
            self._fail(place, f"{token}.{place.attr} has no attributes of its own; end the name there")
        self._unknown(place, f"attribute of {token}", place.attr, (*ATTRIBUTES, *_STEPS))

    def _literal(self, node: ast.expr) -> Literal:
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bool):
            return Literal(node.value)
        negative = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)
        inner = node.operand if isinstance(node, ast.UnaryOp) else node
        value = inner.value if isinstance(inner, ast.Constant) else None
        if isinstance(value, int | float) and not isinstance(value, bool):
            if abs(value) > MAX_NUMBER:
                self._fail(node, f"the number is too large; at most {MAX_NUMBER:.0f}")
            return Literal(-value if negative else value)
        self._fail(node, 'a constant is expected here: "a string", a number, True or False')

    def _unknown(self, place: ast.expr, what: str, name: str, known: Iterable[str]) -> NoReturn:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        advice = f"did you mean {near[0]}?" if near else "known are " + ", ".join(known)
        self._fail(place, f"unknown {what}: {name}; {advice}")

    def _fail(self, place: ast.expr, message: str) -> NoReturn:
        """Raise at the place; for an attribute that is its last name, not the start of the chain."""
        offset = place.col_offset
        if isinstance(place, ast.Attribute) and place.end_col_offset is not None:
            offset = place.end_col_offset - len(place.attr)
        column = len(self._bytes[:offset].decode("utf-8", "replace")) + self._margin
        raise PredicateError(f"{message} (column {column})", column)


def _advice(node: ast.expr) -> str:
    return _ADVICE.get(type(node), "use dst, src, distance, and, or, not, nearest(..), first(..), all(..), any(..)")


def _comparison_with(value: Value) -> str:
    examples = {
        Kind.TOKEN: f"{value} == {'src' if str(value).startswith('dst') else 'dst'}",
        Kind.TEXT: f'{value} == "the"',
        Kind.NUMBER: f"{value} <= 4",
        Kind.FLAG: f"{value}",
    }
    return examples[value.kind]
