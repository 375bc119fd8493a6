"""A chat server on loopback that answers our schemas and, with a seeded share, misbehaves as real servers do.

What a client receives as a reply depends on the seed and the body alone; the faults that are tried again
depend on the number of the attempt too. So all runs against it get the same replies, in any order.
"""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

FAULTS = (
    "429",
    "500",
    "hang",
    "drip",
    "cut_json",
    "cut_body",
    "html",
    "empty_choices",
    "error_200",
    "no_content",
)
ANSWERED_FAULTS = frozenset({"cut_json"})  # a whole reply with a damaged content: received, never to be asked again
WORDS = ("the", "previous", "token", "after", "a", "comma", "name", "same", "word", "before")

Answer = Callable[[dict[str, Any]], str | Mapping[str, Any]]


class MisbehavingServer:
    """Serve in a `with` block; read `answered`, `faults` and `bodies` afterwards.

    `answer` turns a request body into the content (text or an object); by default the content follows the
    schema in the body. `share` is the probability of a fault per attempt; `hang` is how long a hanging reply
    takes. `answer_tools` turns a body with tools into status and whole reply, or None; without it tools are ignored.
    """

    def __init__(
        self,
        answer: Answer | None = None,
        *,
        share: float = 0.0,
        faults: tuple[str, ...] = FAULTS,
        seed: int = 0,
        hang: float = 5.0,
        key: str | None = None,
        model: str = "test-model",
        delay: float = 0.0,
        answer_tools: Callable[[dict[str, Any]], tuple[int, dict[str, Any]] | None] | None = None,
    ) -> None:
        self.answer, self.share, self.fault_names, self.seed = answer or content_for, share, faults, seed
        self.hang, self.key, self.model, self.delay = hang, key, model, delay
        self.answer_tools = answer_tools or (lambda body: None)
        self.answered: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.bodies: dict[str, dict[str, Any]] = {}
        self.gets: list[str] = []
        self.most_at_once = 0
        self.stopping = threading.Event()
        self._at_once = 0
        self._attempts: Counter[str] = Counter()
        self._mutex = threading.Lock()
        self._http = _Http(self)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopping.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def root(self) -> str:
        """The address without /v1."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def base_url(self) -> str:
        """The address to give as --base-url."""
        return f"{self.root}/v1"

    @property
    def calls(self) -> int:
        """Chat requests that came in, faults included."""
        return sum(self._attempts.values())

    @property
    def repeated(self) -> list[str]:
        """Hashes of bodies that were answered more than once."""
        return [digest for digest, count in self.answered.items() if count > 1]

    def take(self, body: dict[str, Any]) -> tuple[str, str | None]:
        """Note a request; returns its hash and the fault to commit, or None."""
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        with self._mutex:
            attempt = self._attempts[digest]
            self._attempts[digest] += 1
            self.bodies[digest] = body
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        return digest, self._fault(digest, attempt)

    def _fault(self, digest: str, attempt: int) -> str | None:
        """What is received depends on the body alone; what is tried again may pass at the next attempt."""
        received = [name for name in self.fault_names if name in ANSWERED_FAULTS]
        passing = [name for name in self.fault_names if name not in ANSWERED_FAULTS]
        always = random.Random(f"{self.seed} {digest}")
        if received and always.random() < self.share * len(received) / len(self.fault_names):
            return always.choice(received)
        now = random.Random(f"{self.seed} {digest} {attempt}")
        return now.choice(passing) if passing and now.random() < self.share else None

    def note(self, digest: str, fault: str | None) -> None:
        """Count what was sent, just before its last byte."""
        with self._mutex:
            if fault is not None:
                self.faults[fault] += 1
            if fault is None or fault in ANSWERED_FAULTS:
                self.answered[digest] += 1

    def done(self) -> None:
        """A request has ended."""
        with self._mutex:
            self._at_once -= 1


def content_for(body: Mapping[str, Any]) -> str | Mapping[str, Any]:
    """An object that follows the schema in the body or in its last message, or a few words."""
    draw = random.Random(json.dumps(body, sort_keys=True))
    schema = (body.get("response_format") or {}).get("json_schema", {}).get("schema")
    if schema is None:
        _, marker, text = body["messages"][-1]["content"].rpartition("JSON Schema:\n")
        schema = json.loads(text) if marker else None
    if schema is None:
        return " ".join(draw.choices(WORDS, k=6))
    value = value_for(schema, draw)
    return value if isinstance(value, dict) else json.dumps(value)


def value_for(schema: Mapping[str, Any], draw: random.Random) -> object:
    """A value that follows a JSON schema of the kinds that we use."""
    if "enum" in schema:
        return draw.choice(schema["enum"])
    if "anyOf" in schema:
        return value_for(draw.choice(schema["anyOf"]), draw)
    kind = schema.get("type", "object")
    kind = draw.choice(kind) if isinstance(kind, list) else kind
    if kind == "object":
        return {name: value_for(sub, draw) for name, sub in schema.get("properties", {}).items()}
    if kind == "array":
        count = draw.randint(schema.get("minItems", 0), min(schema.get("maxItems", 2), 40))
        return [value_for(schema.get("items", {"type": "string"}), draw) for _ in range(count)]
    if kind == "integer":
        return draw.randint(schema.get("minimum", 0), schema.get("maximum", 9))
    if kind == "number":
        return round(draw.uniform(schema.get("minimum", 0.0), schema.get("maximum", 1.0)), 3)
    if kind == "boolean":
        return draw.random() < 0.5
    if kind == "null":
        return None
    return " ".join(draw.choices(WORDS, k=4))[: schema.get("maxLength", 200)]


def completion(model: str, content: str | None) -> dict[str, Any]:
    """The envelope of a chat completion."""
    message = {"role": "assistant", "content": content}
    tokens = len(content or "") // 4
    return {
        "id": "chatcmpl-test",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}],
        "usage": {"prompt_tokens": 50, "completion_tokens": tokens, "total_tokens": 50 + tokens},
    }


def _damaged(model: str, text: str, fault: str | None) -> tuple[int, dict[str, Any]]:
    whole = completion(model, text)
    damaged: dict[str | None, tuple[int, dict[str, Any]]] = {
        None: (200, whole),
        "cut_json": (200, completion(model, text[: max(1, len(text) // 2)])),
        "429": (429, {"error": {"message": "slow down", "code": "rate_limit"}}),
        "500": (500, {"error": {"message": "out of order"}}),
        "error_200": (200, {"error": {"message": "upstream failed"}}),
        "empty_choices": (200, {**whole, "choices": []}),
        "no_content": (200, completion(model, None)),
    }
    return damaged[fault]


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, owner: MisbehavingServer) -> None:
        self.owner = owner
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def owner(self) -> MisbehavingServer:
        assert isinstance(self.server, _Http)
        return self.server.owner

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the terminal."""

    def do_GET(self) -> None:
        self.owner.gets.append(self.path)
        if self.path == "/v1/models":
            self._json(200, {"object": "list", "data": [{"id": self.owner.model, "object": "model"}]})
        else:
            self._json(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path != "/v1/chat/completions":
            return self._json(404, {"detail": "Not Found"})
        given = self.headers.get("authorization", "")
        if self.owner.key is not None and given != f"Bearer {self.owner.key}":
            return self._json(401, {"error": {"message": f"Incorrect API key provided: {given}"}})
        body = json.loads(data)
        digest, fault = self.owner.take(body)
        try:
            time.sleep(self.owner.delay)
            self._answer(body, digest, fault)
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            self.owner.done()

    def _answer(self, body: dict[str, Any], digest: str, fault: str | None) -> None:
        content = self.owner.answer(body)
        text = content if isinstance(content, str) else json.dumps(content)
        whole = completion(self.owner.model, text)
        by_tools = self.owner.answer_tools(body) if fault in (None, *ANSWERED_FAULTS) else None
        self.owner.note(digest, None if by_tools else fault)
        if by_tools:
            self._json(*by_tools)
        elif fault in ("hang", "drip"):
            self._slowly(drip=fault == "drip")
        elif fault == "html":
            self._send(200, b"<!doctype html><html><body>login</body></html>", "text/html")
        elif fault == "cut_body":
            self._partly(json.dumps(whole).encode())
        else:
            status, value = _damaged(self.owner.model, text, fault)
            self._json(status, value, {"Retry-After": "0.02"} if fault == "429" else None)

    def _json(self, status: int, value: object, headers: Mapping[str, str] | None = None) -> None:
        self._send(status, json.dumps(value).encode(), "application/json", headers)

    def _send(self, status: int, data: bytes, kind: str, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _partly(self, data: bytes) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2])
        self.wfile.flush()
        self.close_connection = True

    def _slowly(self, *, drip: bool) -> None:
        if drip:
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", "100000")
            self.end_headers()
        end = time.monotonic() + self.owner.hang
        while time.monotonic() < end and not self.owner.stopping.wait(0.05):
            if drip:
                self.wfile.write(b" ")
                self.wfile.flush()
        self.close_connection = True
