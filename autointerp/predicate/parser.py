"""Reading a predicate: Python's expression grammar in, our own tree out, everything else refused.

1. Refuse what is too long, and what Python's tokenizer reads in ways nobody expects: letters outside ASCII
   (it normalises them), backslashes, comments and control characters outside quotes, unknown escapes.
2. `ast.parse` gives Python's tree. It is never compiled nor run.
3. `_Reader` turns the few known node types into ours and checks kinds; all others are errors with a column.
4. The size of the result, and of its printed form, is held to the limits, so that `str(p)` parses again.
"""

from __future__ import annotations

import ast
import re
import warnings
from dataclasses import dataclass, field

from autointerp.errors import PredicateError
from autointerp.predicate.reader import Reader
from autointerp.predicate.tree import Condition, count_nodes

MAX_CHARACTERS = 400
MAX_NODES = 64

_LEXER = re.compile(
    r"""(?P<string>"(?:\\.|[^"\\\n\r])*"|'(?:\\.|[^'\\\n\r])*')|(?P<space>[\n\r\t])|(?P<quote>["'])"""
    r"""|(?P<control>[\x00-\x1f\x7f])|(?P<foreign>[^\x00-\x7f])|(?P<mark>[#\\;])"""
)
_ESCAPE = re.compile(r"""\\(?:[\\'"nrtabfv]|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8})|(?P<bad>[\\\x00-\x1f])""")
_REFUSED = {
    "quote": 'a quote that is not closed; write strings on one line, as in src.lower == "the"',
    "control": "a control character; remove it",
    "foreign": "a letter outside ASCII; write plain letters and straight quotes, all else inside quotes",
    "mark": "a comment, semicolon or backslash; write one expression only",
}
_FIRST_WORDS = {False: "distance == 1", True: 'dst.lower == "the"'}
_SYNTAX_HINTS = (
    (re.compile("&&"), "write `and`"),
    (re.compile(r"\|\|"), "write `or`"),
    (re.compile("!(?!=)"), "write `not`, or `!=`"),
    (re.compile("=[<>]"), "write `<=` or `>=`"),
    (re.compile("(?<![=<>!])=(?!=)"), "`==` compares"),
)


@dataclass(frozen=True)
class Predicate:
    """A parsed predicate. Two are equal when their trees are; `str` gives the canonical text."""

    tree: Condition
    text: str = field(compare=False)

    def __str__(self) -> str:
        return str(self.tree)

    @property
    def n_nodes(self) -> int:
        return count_nodes(self.tree)


def parse(text: str) -> Predicate:
    """Read a predicate (grammar in docs/predicates.md); nothing in it is ever run.

    At most 400 characters and 64 nodes. Raises PredicateError for everything that is not a predicate, with
    the 0-based character `column` of the place and what to write instead.
    """
    return _parse(text, positional=False)


def parse_positional(text: str) -> Predicate:
    """Read a predicate about one position: `dst`, and earlier tokens inside any(..) only.

    Limits and errors as for `parse`; src, distance, nearest, first and all outside any(..) raise PredicateError.
    """
    return _parse(text, positional=True)


def _parse(text: str, *, positional: bool) -> Predicate:
    if len(text) > MAX_CHARACTERS:
        raise _error(f"{len(text)} characters, at most {MAX_CHARACTERS} are read; shorten it", MAX_CHARACTERS)
    source = _clean(text)
    if not source.strip():
        raise _error(f"the predicate is empty; write a condition such as {_FIRST_WORDS[positional]}", 0)
    margin = len(source) - len(source.lstrip())
    reader = Reader(source.strip(), margin, positional=positional)
    tree = reader.condition(_python_tree(source.strip(), margin))
    predicate = Predicate(tree, text)
    if predicate.n_nodes > MAX_NODES:
        limit = f"{predicate.n_nodes} nodes, at most {MAX_NODES} are evaluated"
        raise _error(limit + '; join comparisons with in {"a", "b"}', margin)
    if len(str(predicate)) > MAX_CHARACTERS:
        written = f"{len(str(predicate))} characters once spaces and escapes are written out"
        raise _error(f"{written}, at most {MAX_CHARACTERS} are read; shorten it", margin)
    return predicate


def _clean(text: str) -> str:
    """The text with line breaks and tabs between tokens as spaces (same length, so columns stay true)."""
    pieces, end = [], 0
    for match in _LEXER.finditer(text):
        sort = str(match.lastgroup)
        if sort in _REFUSED:
            raise _error(f"{_REFUSED[sort]} ({match.group()!r})", match.start())
        if sort == "string":
            _check_escapes(match.group(), match.start())
        pieces += [text[end : match.start()], " " if sort == "space" else match.group()]
        end = match.end()
    return "".join(pieces) + text[end:]


def _check_escapes(literal: str, start: int) -> None:
    for match in _ESCAPE.finditer(literal):
        if match.group("bad"):
            shown = literal[match.start() : match.start() + 2]
            message = f"unknown escape or control character {shown!r} in a string"
            raise _error(message + r"; write a backslash as \\ and a line break as \n", start + match.start())


def _python_tree(source: str, margin: int) -> ast.expr:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd literals: refused later, or fine
            return ast.parse(source, mode="eval").body
    except SyntaxError as error:
        offset = error.offset - 1 if error.offset else len(source)  # 0 or None: at the end
        column = min(max(offset, 0), len(source)) + margin
        hint = next((f"; {advice}" for sign, advice in _SYNTAX_HINTS if sign.search(source)), "")
        raise _error(f"not an expression ({error.msg}){hint}", column) from None
    except (ValueError, RecursionError, MemoryError, OverflowError) as error:
        raise _error(f"cannot be read ({type(error).__name__}); write a simpler expression", margin) from None


def _error(message: str, column: int) -> PredicateError:
    return PredicateError(f"{message} (column {column})", column)
