"""The closed set of experiments: their names, schemas, bounds and costs, and how a reply becomes a request.

A request is data. Nothing in it is run: a predicate is parsed by our own language, a text is tokenised and fed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from pydantic import ValidationError

from autointerp.agent import arguments as a

SELECT_TOKENS = 65_536  # of select rows, that predicates are scored on
EXPLAIN_TOKENS = 32_768  # of explain rows, that rows are picked from
EFFECT_TOKENS = 16_384  # that are run with the head taken out, for a sample of rows of up to 1,024 tokens
SELFIE_TOKENS = 200_000
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


_MODELS: dict[str, tuple[type[a.Arguments], str]] = {
    "attend": (a.Places, "Read up to 4 texts. At each marked destination: the sources that the head attends to, their "
               "share off the first position and share of what it moves, and the tokens that its output raises and "
               "lowers."),
    "edit": (a.Edit, "Replace one span of a text and read the head's row at the marked destination before and after."),
    "rows": (a.Rows, "Rows of real text: most active (top), random, or contrast (same destination token, head at "
             "rest), filtered by token, distance, or whether a predicate names the most attended source."),
    "score_predicate": (a.ScorePredicate, "Score a predicate on held-out rows: F1 with interval, precision, recall, "
                        "coverage, chance, best simple rival; and its failures: predicted but silent, active but "
                        "unpredicted, right place but no effect, with sample rows."),
    "disagree": (a.Disagree, "Held-out rows where exactly one of two predicates names the head's strongest source or "
                 "names a source at all, with what the head did there and how often each was right."),
    "ablate": (a.Places, "Take the head's output out (mean in its place) at the marked destination of up to 4 texts: "
               "which next tokens lose and gain most."),
    "patch": (a.Patch, "Exchange the head's output between a clean and a corrupted text of equal token length: logit "
              "difference of answer and wrong after the last token, before and after, both ways."),
    "lens": (a.Lens, "What the head's output at a position says in the vocabulary, as a whole and against its mean."),
    "ov": (a.Ov, "What attending to each of up to 8 tokens raises and lowers, by the head's weights alone."),
    "detectors": (a.Detectors, "The head's measurements with percentile among all heads and the highest null value."),
    "probe": (a.Probe, "8 to 24 short texts with a marked token and one of two labels: can a linear probe read the "
              "label from the head's output, on items it was not trained on, against shuffled labels?"),
}  # fmt: skip


def parse_request(name: str, arguments: object) -> Request | RequestError:
    """Check a request; never raises, whatever the two are. `arguments` is a decoded JSON object."""
    if not isinstance(name, str) or name not in _MODELS:
        return RequestError(f"unknown experiment {_shown(name)}; there are {', '.join(_MODELS)}")
    if not isinstance(arguments, dict):
        return RequestError(f"arguments of {name} are {_kind(arguments)}; give an object")
    try:
        found = _MODELS[name][0].model_validate(arguments)
    except ValidationError as error:
        return RequestError(said(error, name))
    except (RecursionError, TypeError, ValueError, OverflowError) as error:
        return RequestError(f"arguments of {name} cannot be read ({type(error).__name__})")
    return Request(name, found.model_dump(mode="json"))


def typed(request: Request) -> a.Arguments | RequestError:
    """The arguments of a request as their model, checked again: a request may have been built by hand."""
    checked = parse_request(request.name, request.arguments)
    return checked if isinstance(checked, RequestError) else _MODELS[request.name][0].model_validate(checked.arguments)


def cost(request: Request) -> int:
    """At most so many tokens are fed to the model for a request; the first of a kind that reads rows pays for them."""
    found = typed(request)
    match found:
        case a.Places(texts=texts):
            times = 1 if request.name == "attend" else 4
            return times * _fed(place.text for place in texts)
        case a.Edit(text=text, by=by):
            return _fed((text, text + by))
        case a.Rows():
            return EXPLAIN_TOKENS + EFFECT_TOKENS
        case a.ScorePredicate() | a.Disagree():
            return SELECT_TOKENS + 2 * EFFECT_TOKENS
        case a.Patch(clean=clean, corrupted=corrupted):
            return 4 * _fed((clean, corrupted))
        case a.Lens(text=text, selfie=selfie):
            return 3 * _fed((text,)) + SELFIE_TOKENS * selfie
        case a.Ov(tokens=tokens):
            return 2 * len(tokens)
        case a.Probe(items=items):
            return _fed(item.text for item in items)
    return 0


def _fed(texts: Iterable[str]) -> int:
    """No tokenizer makes more tokens than bytes; one more is the BOS."""
    return sum(len(text.encode("utf-8", "surrogatepass")) + 1 for text in texts)


def said(error: ValidationError, name: str) -> str:
    """The first thing that is wrong with the arguments of an experiment, in words that help to write better ones."""
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
            known = f"; there are {', '.join(_MODELS[name][0].model_fields)}" if len(first["loc"]) == 1 else ""
            found = f"{where} is not an argument of {name}{known}"
        case "missing":
            found = f"{where} is missing"
        case "value_error":
            found = str(first["msg"]).removeprefix("Value error, ")
        case _:
            found = f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}"
    return _cut(found, REASON_CHARACTERS)


def _shown(name: object) -> str:
    return _cut(repr(name[:40]), 40) if isinstance(name, str) else f"({_kind(name)})"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _kind(value: object) -> str:
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list"}
    return names.get(type(value), type(value).__name__)


def _schema(model: type[a.Arguments]) -> Plain:
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


TOOLS: dict[str, Tool] = {name: Tool(name, text, _schema(model)) for name, (model, text) in _MODELS.items()}
