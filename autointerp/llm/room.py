"""How long the prompts of a run may be, in tokens as `estimate_prompt` counts them.

1. A prompt is wanted to have at most MAX_PROMPT_TOKENS tokens of the server's own tokenizer, which the probe compared
   with our estimate; what cannot be spared may take it up to as many estimated tokens.
2. It never has more than the server's context less the longest reply.
3. A schema is part of a prompt only where the server does not enforce it, since it is sent as text then.
4. A prompt that the server finds too long all the same makes all later ones of the run shorter.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from autointerp.llm.ask import fitted
from autointerp.llm.budget import estimate_prompt
from autointerp.llm.capability import Capabilities
from autointerp.llm.request import ChatRequest

MAX_PROMPT_TOKENS = 8_000
MARKERS = 64  # tokens of the chat template around prompt and reply
STEPS, STEP = 5, 0.6  # how often, and to what, prompts are shortened after a refusal


@dataclass(frozen=True)
class Room:
    """A prompt for `server` is cut down to `wanted` where that costs nothing but examples, and to `limit` whatever it
    costs."""

    wanted: int = MAX_PROMPT_TOKENS
    limit: int = MAX_PROMPT_TOKENS
    server: Capabilities = field(default_factory=Capabilities)

    def size(self, request: ChatRequest) -> int:
        """Tokens of a request's prompt, as the server gets it: a schema that it enforces is none of it."""
        sent = fitted(request, self.server)
        return estimate_prompt(sent.changed(json_schema=None) if sent.reply_format == "schema" else sent)


class PromptRoom:
    """What is known of the server, and what its refusals have taught; one for all prompts of a run."""

    def __init__(self, capabilities: Capabilities) -> None:
        self._server, self._ratio = capabilities, max(1.0, capabilities.token_ratio)
        self.step = 0

    def of(self, reply: int) -> Room:
        """The room of a prompt with a reply of at most `reply` tokens."""
        limit = float(MAX_PROMPT_TOKENS)
        if self._server.context is not None:
            limit = min(limit, (self._server.context - reply - MARKERS) / self._ratio)
        limit *= STEP**self.step
        return Room(int(min(limit, MAX_PROMPT_TOKENS / self._ratio)), int(limit), self._server)

    def refused(self, step: int) -> bool:
        """A prompt that was made at this step was too long; whether a shorter one may be tried. Prompts that were under
        way together teach the same thing once."""
        self.step = max(self.step, min(step + 1, STEPS))
        return self.step > step
