"""How a laboratory answers: every request gets numbers or a reason, whatever it asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from autointerp.agent.arguments import Arguments
from autointerp.agent.plain import ERROR_CHARACTERS, bounded
from autointerp.agent.requests import Request, RequestError, Toolset
from autointerp.errors import BadInput, ModelError, PredicateError

Plain = dict[str, Any]


def answered(tools: Toolset, request: Request, answer: Callable[[str, Arguments], Plain], model_name: str) -> Plain:
    """What `answer` finds for a checked request, of bounded length; `{"error": ...}`, without the model's name, for
    what is no request or cannot be done."""
    found = tools.typed(request)
    if isinstance(found, RequestError):
        return {"error": found.reason}
    try:
        return bounded(answer(request.name, found))
    except PredicateError as error:
        return _error(f"the predicate does not parse: {error}")
    except ValidationError as error:  # of what an experiment composes from its arguments
        return _error(tools.said(error, request.name))
    except BadInput as error:
        return _error(str(error).replace(model_name, "the model"))
    except ModelError:
        return _error("this model does not allow this experiment; choose another")


def _error(reason: str) -> Plain:
    return {"error": reason if len(reason) <= ERROR_CHARACTERS else reason[: ERROR_CHARACTERS - 1] + "…"}
