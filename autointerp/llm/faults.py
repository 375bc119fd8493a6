"""Why a call failed and what to do: retry (with which wait), give up on this request, or end the run.

Also the redaction of keys: nothing that a server wrote is shown before it went through `Secrets.clean`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from autointerp.errors import ChatFailed, ContextOverflow, RequestRefused, ServerError

RETRIED_STATUS = frozenset({408, 409, 425, 429})
CONTENT_ATTEMPTS = 5  # a server that answers rubbish five times in a row will go on
KEY_LIKE = re.compile(r"\b(?:sk|gsk|xai|key)-[A-Za-z0-9_\-*]{8,}|\bBearer\s+\S+|\bAIza[\w\-]{20,}", re.IGNORECASE)
OVERFLOW = re.compile(
    r"exceed_context_size|context_length_exceeded|maximum context length|context (?:size|length|window)"
    r"|too many tokens|prompt is too long|input is too long",
    re.IGNORECASE,
)
NO_MODEL = re.compile(
    r"model_not_found|(?:invalid|unknown|no such) model|model\b.{0,200}\b(?:not found|(?:does )?not exist)",
    re.IGNORECASE | re.DOTALL,
)
BAD_KEY = re.compile(
    r"(?:invalid|incorrect|missing|valid|wrong|no)\W+(?:\w+\W+){0,2}api[ _-]?key|api_key_invalid",
    re.IGNORECASE,
)
NO_TOOLS = re.compile(
    r"--jinja|--enable-auto-tool-choice|tools? (?:param|use|choice|call)|support\W+tools", re.IGNORECASE
)
NO_MONEY = re.compile(r"insufficient[_ ](?:quota|balance|credit)|billing_hard_limit|credit balance", re.IGNORECASE)


class Retryable(Exception):
    """A failure that may pass; `wait` is what the server asked for in seconds, `attempts` the most tries."""

    def __init__(self, reason: str, *, wait: float | None = None, attempts: int | None = None) -> None:
        super().__init__(reason)
        self.wait = wait
        self.attempts = attempts
        self.server_down = False
        self.not_json = False


@dataclass(frozen=True, repr=False)
class Secrets:
    """The key in use; `clean` removes it, and whatever looks like a key, from a text."""

    key: str = ""

    def clean(self, text: str, limit: int = 300) -> str:
        """`text` on one line without the key, at most `limit` characters."""
        bare = self.strip(text, shortest=4)
        bare = " ".join(KEY_LIKE.sub("[key]", bare).split())
        return bare if len(bare) <= limit else bare[: limit - 1] + "…"

    def strip(self, text: str, shortest: int = 8) -> str:
        """`text` without the key itself; keys under `shortest` characters are placeholders, not secrets."""
        return text.replace(self.key, "[key]") if len(self.key) >= shortest else text

    def __repr__(self) -> str:
        return "Secrets(…)"


def shown_url(url: str) -> str:
    """The URL without user, password or query."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        port = ""
    host = f"[{host}]" if ":" in host else host
    return urlunsplit((parts.scheme, f"{host}{port}", parts.path, "", ""))


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds to wait from Retry-After (seconds or an HTTP date) or retry-after-ms; None where absent."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        value = headers.get("retry-after", "")
        if not value:
            return None
        if re.fullmatch(r"\s*\d+(\.\d+)?\s*", value):
            return float(value)
        return max(0.0, parsedate_to_datetime(value).timestamp() - (time.time() if now is None else now))
    except (ValueError, TypeError, OverflowError):
        return None


@dataclass(frozen=True)
class Refusal:
    """An error answer of a server: HTTP status, the fields of its body, and the headers."""

    status: int
    message: str
    code: str = ""
    kind: str = ""
    param: str = ""
    headers: Mapping[str, str] | None = None
    html: bool = False
    extra: Mapping[str, Any] | None = None

    @property
    def words(self) -> str:
        """All that the server said, in one text to search in."""
        return f"{self.code} {self.kind} {self.message}"


def read_refusal(status: int, body: object, headers: Mapping[str, str] | None = None) -> Refusal:
    """A `Refusal` from an error body of any shape (OpenAI, llama.cpp, vLLM, FastAPI, HTML, text)."""
    inner = body.get("error", body) if isinstance(body, Mapping) else body
    if isinstance(inner, Mapping):
        message = inner.get("message") or inner.get("detail") or str(dict(inner))
        code, kind, param = (str(inner.get(name) or "") for name in ("code", "type", "param"))
        return Refusal(status, str(message)[:4000], code, kind, param, headers=headers, extra=inner)
    text = str(inner or "")[:4000]
    return Refusal(status, text, headers=headers, html="<html" in text.lower() or "<!doctype" in text.lower())


class NotThere(ServerError):
    """The server does not know the path or the model."""


def judge(refusal: Refusal, secrets: Secrets, where: str) -> Exception:
    """The exception for an error answer: Retryable, ChatFailed (or a kind of it), or ServerError."""
    said = secrets.clean("an HTML page" if refusal.html else refusal.message) or "no reason given"
    status, words = refusal.status, refusal.words
    if status == 402 or NO_MONEY.search(words):
        return ServerError(f"{where} refuses for lack of credit ({status}: {said}). Add credit or change --llm.")
    if status == 401 or (status in (400, 403) and BAD_KEY.search(words)):
        return ServerError(f"{where} does not accept the key ({status}: {said}). Correct OPENAI_API_KEY.")
    if status == 403 and "logprob" in words.lower():  # OpenAI forbids them for reasoning models
        return RequestRefused(f"HTTP 403: {said}")
    if status == 403:
        return ServerError(f"{where} forbids the request ({status}: {said}). Check the key's rights and --llm.")
    if status in (404, 500, 501) and NO_TOOLS.search(words):  # llama.cpp says 500, routers 404: neither will pass
        return RequestRefused(f"HTTP {status}: {said}")
    if status in RETRIED_STATUS or status >= 500:
        return Retryable(f"HTTP {status}: {said}", wait=retry_after(refusal.headers or {}))
    if status == 404:
        return NotThere(f"{where} answers 404 ({said}).")
    if status in (400, 422) and NO_MODEL.search(words) and not OVERFLOW.search(words):
        return NotThere(f"{where} does not know the model ({status}: {said}).")
    if status == 413 or OVERFLOW.search(words):
        sizes = _overflow(refusal, said)
        return ContextOverflow(f"the prompt is too long for the server: {sizes}. Lower --context.")
    return RequestRefused(f"HTTP {status}: {said}")


def _overflow(refusal: Refusal, said: str) -> str:
    extra = refusal.extra or {}
    prompt, size = extra.get("n_prompt_tokens"), extra.get("n_ctx")
    return f"prompt {prompt} tokens, context {size}" if prompt and size else said


def given_up(fault: Retryable, tries: int) -> ChatFailed:
    """The failure of a request whose retries are used up."""
    return ChatFailed(f"no usable reply after {tries} {'try' if tries == 1 else 'tries'}: {fault}")
