"""What an experiment is: a checked request from a closed set, with its schema, its bounds and what it may cost.

A request is data. Nothing in it is run: a predicate is parsed by our own language, a text is tokenised and fed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from pydantic import ValidationError

from autointerp.agent.arguments import Arguments

SELECT_TOKENS = 65_536  # of select rows, that predicates are scored on
EXPLAIN_TOKENS = 32_768  # of explain rows, that rows are picked from
LEARN_TOKENS = 131_072  # of explain rows, that rivals of a unit's rule learn from
EFFECT_TOKENS = 16_384  # that are run with the unit taken out, for a sample of rows of up to 1,024 tokens
REASON_CHARACTERS = 200
Plain = dict[str, Any]


@dataclass(frozen=True)
class Tool:
    """An experiment as a language model is told of it; `schema` is a closed JSON Schema of its arguments."""

    name: str
    description: str
    schema: Plain


@dataclass(frozen=True)
class Request:
    """A checked request; `arguments` are plain values with every default filled in."""

    name: str
    arguments: Plain


@dataclass(frozen=True)
class RequestError:
    """Why a request is none, in words that help to write a better one."""

    reason: str


class Toolset:
    """A closed set of experiments on one kind of units.

    `models`: arguments and description of each experiment by name · `fed`: at most so many tokens are fed to the model
    for an experiment; the first of a kind that reads rows pays for them.
    """

    def __init__(self, models: Mapping[str, tuple[type[Arguments], str]], fed: Callable[[str, Arguments], int]) -> None:
        self._models, self._fed = {name: model for name, (model, _) in models.items()}, fed
        self.tools = {name: Tool(name, text, _schema(model)) for name, (model, text) in models.items()}

    def parse(self, name: str, arguments: object) -> Request | RequestError:
        """Check a request; never raises, whatever the two are. `arguments` is a decoded JSON object."""
        if not isinstance(name, str) or name not in self._models:
            return RequestError(f"unknown experiment {_shown(name)}; there are {', '.join(self._models)}")
        if not isinstance(arguments, dict):
            return RequestError(f"arguments of {name} are {_kind(arguments)}; give an object")
        try:
            found = self._models[name].model_validate(arguments)
        except ValidationError as error:
            return RequestError(self.said(error, name))
        except (RecursionError, TypeError, ValueError, OverflowError) as error:
            return RequestError(f"arguments of {name} cannot be read ({type(error).__name__})")
        return Request(name, found.model_dump(mode="json"))

    def typed(self, request: Request) -> Arguments | RequestError:
        """The arguments of a request as their model, checked again: a request may have been built by hand."""
        checked = self.parse(request.name, request.arguments)
        if isinstance(checked, RequestError):
            return checked
        return self._models[request.name].model_validate(checked.arguments)

    def cost(self, request: Request) -> int:
        """At most so many tokens are fed to the model for a request; 0 for one that is none."""
        found = self.typed(request)
        return 0 if isinstance(found, RequestError) else self._fed(request.name, found)

    def said(self, error: ValidationError, name: str) -> str:
        """The first thing wrong with the arguments of an experiment, in words that help to write better ones."""
        first = error.errors(include_url=False)[0]
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
        where = _cut(where, 60) or name
        context = first.get("ctx", {})
        match first["type"]:
            case "too_long":
                found = f"{where} has {context['actual_length']} items; at most {context['max_length']}"
            case "too_short":
                found = f"{where} has {context['actual_length']} items; at least {context['min_length']}"
            case "string_too_long":
                found = f"{where} has {len(str(first['input']))} characters; at most {context['max_length']}"
            case "string_too_short":
                found = f"{where} is empty"
            case "extra_forbidden":
                known = f"; there are {', '.join(self._models[name].model_fields)}" if len(first["loc"]) == 1 else ""
                found = f"{where} is not an argument of {name}{known}"
            case "missing":
                found = f"{where} is missing"
            case "value_error":
                found = str(first["msg"]).removeprefix("Value error, ")
            case _:
                found = f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}"
        return _cut(found, REASON_CHARACTERS)


def text_tokens(texts: Iterable[str]) -> int:
    """At most so many tokens are fed for these texts: no tokenizer makes more than bytes, and one more is the BOS."""
    return sum(len(text.encode("utf-8", "surrogatepass")) + 1 for text in texts)


def _shown(name: object) -> str:
    return _cut(repr(name[:40]), 40) if isinstance(name, str) else f"({_kind(name)})"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _kind(value: object) -> str:
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list"}
    return names.get(type(value), type(value).__name__)


def _schema(model: type[Arguments]) -> Plain:
    whole = model.model_json_schema()
    return cast(Plain, _inlined(whole, whole.get("$defs", {})))


def _inlined(part: object, definitions: Mapping[str, object]) -> object:
    """The schema without references, titles and internal descriptions, which small servers read badly."""
    if isinstance(part, list):
        return [_inlined(one, definitions) for one in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        return _inlined(definitions[str(part["$ref"]).rpartition("/")[2]], definitions)
    kept = {key: value for key, value in part.items() if key not in {"$defs", "title"}}
    if "properties" in kept:
        kept.pop("description", None)
        kept["properties"] = {name: _inlined(value, definitions) for name, value in kept["properties"].items()}
        return {key: value if key == "properties" else _inlined(value, definitions) for key, value in kept.items()}
    return {key: _inlined(value, definitions) for key, value in kept.items()}
