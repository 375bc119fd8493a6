"""How a token is written down: visible glyphs for people, lossless escapes for CSV and Markdown cells.

Tokens are hostile text: they hold control characters, markup, lone surrogates, bidirectional overrides and
strings that a spreadsheet or pandas reads as something else. Nothing here knows HTML; see `display.py`.
"""

from __future__ import annotations

import html
import re
import unicodedata
from functools import lru_cache

GLYPHS = {" ": "·", "\n": "↵", "\t": "⇥", "\r": "␍"}
_LITERAL_GLYPHS = frozenset(GLYPHS.values())  # the same characters as text are spelt out, to stay distinct
_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"})
_INVISIBLE = frozenset("\u00ad\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0\u2800")

# They turn the order in which a line is drawn: what follows them may look like another text.
_REORDERS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

# The strings that pandas, Excel or LibreOffice read as missing, boolean or infinite (compared casefolded).
_EATEN_WORDS = frozenset(
    "n/a na nan null none <na> nil inf infinity true false".split()
    + "#n/a #na #value! #ref! #div/0! #name? #null! #num!".split()
) | {"#n/a n/a"}
_FORMULA = "=+-@\uff1d\uff0b\uff0d\uff20\t\r"
_NUMBER_LIKE = re.compile(r"\W*\d[\d\W_]*([A-Za-z]{1,9}[\d\W_]*){0,2}")  # 007, 1e5, 3/4, 12:30, 5 May 20
_MONTH_LIKE = re.compile(r"(?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\W*\d+")
_PROTECT = "\\&"  # as in Haskell: the empty string, there to keep the rest from being read as something else
_SHORT = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_LONG = {value: key for key, value in _SHORT.items()} | {_PROTECT: ""}
_CSV_ESCAPE = re.compile(r"\\u\{([0-9a-f]{1,6})\}|\\[\\nrt&]")
_MARKDOWN = re.compile(r"([\\`*\[\]|~$>]|(?<!\w)_|_(?!\w))")  # an underscore inside a word is no markup


@lru_cache(maxsize=65536)  # pages draw the same tokens millions of times
def visible(token: str) -> str:
    """`token` with every invisible character as a glyph or as its code point, such as `⟨202e⟩`.

    Ordinary text stays as it is, so that tokens in a row read as the sentence: ` the` is `·the`.
    """
    if token == "":
        return "∅"
    return "".join(_visible_char(char) for char in token)


def _visible_char(char: str) -> str:
    if char in GLYPHS:
        return GLYPHS[char]
    hidden = char in _LITERAL_GLYPHS or char in _INVISIBLE or unicodedata.category(char) in _CATEGORIES
    return f"⟨{ord(char):04x}⟩" if hidden else char


def printable(text: str) -> str:
    """Prose from a model, safe for a terminal: control and direction characters spelt out, newlines kept."""
    return "".join(char if char in " \n" else _printable_char(char) for char in text)


def _printable_char(char: str) -> str:
    return f"⟨{ord(char):04x}⟩" if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"} else char


def escape_cell(text: str) -> str:
    r"""A string as a CSV cell that spreadsheets and `pandas.read_csv` leave alone; `unescape_cell` undoes it.

    Plain tokens stay as they are. A backslash is doubled; controls, line ends, direction overrides and lone surrogates
    are written `\n`, `\r`, `\t` or `\u{hex}`; a cell that would be eaten (empty, `NA`, `null`, `=1+1`, `007`, `May 5`)
    starts with `\&`, which stands for nothing.
    """
    body = "".join(_escape_char(char) for char in text)
    return _PROTECT + body if _is_eaten(text) else body


def _escape_char(char: str) -> str:
    if char in _SHORT:
        return _SHORT[char]
    if unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} or char in _REORDERS or char == "\ufeff":
        return f"\\u{{{ord(char):x}}}"
    return char


def _is_eaten(text: str) -> bool:
    bare = text.strip()
    if not bare or bare.casefold() in _EATEN_WORDS:
        return True
    return bare[0] in _FORMULA or any(p.fullmatch(bare) for p in (_NUMBER_LIKE, _MONTH_LIKE))


def unescape_cell(cell: str) -> str:
    """The string that `escape_cell` was given; other text passes through."""
    return _CSV_ESCAPE.sub(_unescape_match, cell)


def _unescape_match(match: re.Match[str]) -> str:
    code = match.group(1)
    if code is None:
        return _LONG[match.group(0)]
    return chr(int(code, 16)) if int(code, 16) <= 0x10FFFF else match.group(0)


def escape_markdown(text: str) -> str:
    """Text for a Markdown table cell or paragraph: nothing in it is markup, line ends become spaces."""
    flat = " ".join(printable(text).split("\n"))
    return _MARKDOWN.sub(r"\\\1", html.escape(flat, quote=False).replace("&gt;", ">"))


def unescape_markdown(cell: str) -> str:
    """The text behind `escape_markdown`, as a Markdown renderer would show it."""
    return html.unescape(re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", cell))
