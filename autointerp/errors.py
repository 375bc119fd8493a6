"""Every error a user can meet: each message says what happened, the value seen, and the next step."""

from __future__ import annotations


class AutointerpError(Exception):
    """Base of all errors that autointerp raises on purpose; the command line prints its message without a traceback."""

    exit_code: int = 2


class BadInput(AutointerpError):
    """An option, a file, a corpus or a name that cannot be used as given."""


class ModelError(AutointerpError):
    """A model that cannot be loaded, or whose attention cannot be trusted after loading."""


class PredicateError(AutointerpError):
    """A predicate that does not parse; `column` (0-based) points at the place."""

    def __init__(self, message: str, column: int | None = None) -> None:
        super().__init__(message)
        self.column = column


class PromptError(AutointerpError):
    """A template that is missing, does not parse, or names a variable that is not given."""


class ServerError(AutointerpError):
    """An OpenAI-compatible server that cannot be used: wrong address, wrong key, no such model."""


class ChatFailed(AutointerpError):
    """One request that got no usable reply after all retries; the run counts it and goes on."""


class BudgetExceeded(AutointerpError):
    """The next request would pass the budget; nothing was sent."""

    exit_code = 3


class TooManyFailures(AutointerpError):
    """More than a fifth of the heads failed; what was done is kept."""

    exit_code = 4


class RunFolderError(AutointerpError):
    """A run folder that is locked, full, unreadable, or made with other settings."""


class RequestRefused(ChatFailed):
    """The server will not answer this request as it stands (400, 422, refusal); others may succeed."""


class ContextOverflow(RequestRefused):
    """The prompt is longer than the server's context."""
