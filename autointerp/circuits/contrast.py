"""Contrast sets as written: pairs of a clean and a corrupted prompt, answers, named roles, groups.

A line of JSONL (or what a Python callable yields):

    {"clean": "When John and Mary ... John gave a ball to", "corrupted": "...", "answers": [" Mary", " John"],
     "roles": {"IO": [14, 18], "S2": ["John", 2]}, "group": "1/ABBA"}

`answers`: the right one first, then a wrong one (may be left out). A role is a range of characters of the clean
prompt, a string that occurs once, or a string and which of its occurrences (1 is the first). Prompts may be lists of
token ids, fed as they are; then answers are ids and roles are indices into the clean list. Nothing here needs a model.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autointerp.errors import BadInput

if TYPE_CHECKING:
    from autointerp.model import LanguageModel

END = "END"
FIELDS = ("clean", "corrupted", "answers", "roles", "group")
Text = str | tuple[int, ...]


@dataclass(frozen=True)
class ContrastPrompt:
    """One pair. `roles`: character ranges `(start, stop)` of the clean text, or token indices `(n, n + 1)` of ids."""

    clean: Text
    corrupted: Text
    answers: tuple[str | int, ...]
    roles: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    group: str = ""
    place: str = "prompt"  # how messages name it


def read_prompts(spec: str, model: LanguageModel | None = None) -> list[ContrastPrompt]:
    """Read a `.jsonl` file, or call `file.py:callable` (with the model, where it takes an argument).

    Raises BadInput with the line and what is wrong with it.
    """
    if spec.rpartition(":")[0].endswith(".py"):
        return [parse_prompt(one, f"{spec} item {n}") for n, one in enumerate(_called(spec, model), 1)]
    path = Path(spec).expanduser()
    if not path.is_file():
        raise BadInput(f"{spec!r} is neither a .jsonl file of contrast prompts nor file.py:callable. Check the path.")
    found: list[ContrastPrompt] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise BadInput(f"{spec} is no UTF-8 text ({error}). Save it as UTF-8.") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{spec} line {number}"
        try:
            value = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise BadInput(f"{place} is no JSON ({error}). Write one object a line.") from None
        found.append(parse_prompt(value, place))
    if not found:
        raise BadInput(f"{spec} holds no prompt. Write one JSON object a line.")
    return found


def needs_model(spec: str) -> bool:
    """Whether reading the set takes a loaded model (a callable may ask for it)."""
    return spec.rpartition(":")[0].endswith(".py")


def parse_prompt(value: object, place: str) -> ContrastPrompt:
    """One object as a prompt; raises BadInput naming the field."""
    if isinstance(value, ContrastPrompt):
        return value
    if not isinstance(value, Mapping):
        raise BadInput(f"{place} is a {type(value).__name__}, not an object with {', '.join(FIELDS)}.")
    unknown = sorted(str(name) for name in value if name not in FIELDS)
    if unknown:
        raise BadInput(f"{place} has unknown fields {', '.join(unknown)}. Known are {', '.join(FIELDS)}.")
    clean, corrupted = _text(value, "clean", place), _text(value, "corrupted", place)
    if isinstance(clean, str) != isinstance(corrupted, str):
        raise BadInput(f"{place}: clean and corrupted are a text and a list of ids. Give both in one form.")
    answers = _answers(value.get("answers"), clean, place)
    roles = value.get("roles", {})
    if not isinstance(roles, Mapping):
        raise BadInput(f'{place}: roles is {roles!r}. Write {{"S2": [start, end]}}.')
    spans = {str(name): _role(str(name), role, clean, place) for name, role in roles.items()}
    group = value.get("group", "")
    if not isinstance(group, str | int):
        raise BadInput(f"{place}: group is {group!r}. Give a name.")
    return ContrastPrompt(clean, corrupted, answers, spans, str(group), place)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _text(value: Mapping[str, Any], name: str, place: str) -> Text:
    text = value.get(name)
    if isinstance(text, str) and text:
        return text
    if isinstance(text, list | tuple) and text and all(_is_int(i) and i >= 0 for i in text):
        return tuple(text)
    raise BadInput(f"{place}: {name} is {text!r}. Give a text, or a list of token ids.")


def _answers(value: object, clean: Text, place: str) -> tuple[str | int, ...]:
    wanted = str if isinstance(clean, str) else int
    listed = list(value) if isinstance(value, list | tuple) else [value]
    good = [a for a in listed if isinstance(a, str | int) and isinstance(a, wanted) and a is not True and a != ""]
    if len(good) != len(listed) or not 1 <= len(listed) <= 2:
        raise BadInput(
            f"{place}: answers is {value!r}. Give the right answer and, if there is one, the wrong one, each a "
            f"{'text' if wanted is str else 'token id'}: [right, wrong]."
        )
    return tuple(good)


def _role(name: str, value: object, clean: Text, place: str) -> tuple[int, int]:
    if name == END:
        raise BadInput(f"{place}: the role {END} is always the last token of the prompt. Leave it out.")
    if isinstance(clean, str):
        return _span(name, value, clean, place)
    if _is_int(value) and 0 <= value < len(clean):  # type: ignore[operator]
        return int(value), int(value) + 1  # type: ignore[call-overload]
    raise BadInput(f"{place}: role {name} is {value!r}; with token ids it is an index from 0 to {len(clean) - 1}.")


def _span(name: str, value: object, clean: str, place: str) -> tuple[int, int]:
    if isinstance(value, str) and value:
        if clean.count(value) != 1:
            raise BadInput(
                f"{place}: role {name}: {value!r} occurs {clean.count(value)} times in the clean prompt. "
                f'Write ["{value}", which] with which from 1, or [start, end].'
            )
        return clean.index(value), clean.index(value) + len(value)
    if isinstance(value, list | tuple) and len(value) == 2 and isinstance(value[0], str) and _is_int(value[1]):
        return _nth(name, value[0], int(value[1]), clean, place)
    if isinstance(value, list | tuple) and len(value) == 2 and all(_is_int(n) for n in value):
        start, stop = int(value[0]), int(value[1])
        if 0 <= start < stop <= len(clean):
            return start, stop
    raise BadInput(
        f"{place}: role {name} is {value!r}; it is a range of characters [start, end] inside the clean prompt "
        f"(0 to {len(clean)}), a string that occurs once, or [string, which]."
    )


def _nth(name: str, text: str, which: int, clean: str, place: str) -> tuple[int, int]:
    at = -1
    for _ in range(which if text else 0):
        at = clean.find(text, at + 1)
        if at < 0:
            break
    if at < 0:
        raise BadInput(f"{place}: role {name}: {text!r} has no occurrence {which} in the clean prompt {clean!r}.")
    return at, at + len(text)


def _called(spec: str, model: LanguageModel | None) -> Iterable[object]:
    place, _, name = spec.rpartition(":")
    path = Path(place).expanduser().resolve()
    if not path.is_file():
        raise BadInput(f"{spec}: {place} is no file. Check the path.")
    found = importlib.util.spec_from_file_location(path.stem, path)
    if found is None or found.loader is None:
        raise BadInput(f"{spec}: {place} cannot be imported. Give a Python file.")
    module = importlib.util.module_from_spec(found)
    try:
        found.loader.exec_module(module)
    except (ImportError, SyntaxError, ValueError, NameError, TypeError, AttributeError) as error:
        raise BadInput(f"{spec}: {place} cannot be imported ({type(error).__name__}: {error}). Correct it.") from error
    make = getattr(module, name, None)
    if not callable(make):
        raise BadInput(f"{spec}: {place} has no callable {name!r}. Name a function that yields contrast prompts.")
    items = list(make(model) if inspect.signature(make).parameters else make())
    if not items:
        raise BadInput(f"{spec} yielded no prompt.")
    return items
