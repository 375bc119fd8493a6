"""Replies that call tools, well and badly, as servers send them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from typing import Any

from tests.agent_helpers import asked

Plain = dict[str, Any]
Calls = list[tuple[str, object]]  # names and arguments
TOOL_MODES = ("good", "objects", "malformed", "unknown", "thousand", "twice", "prose", "refused", "nothing")
PROSE = "I would rather write an essay about tools."


def call_entry(number: int, name: object, arguments: object) -> Plain:
    """A call as OpenAI sends it."""
    return {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": arguments}}


def calling(model: str, calls: list[Any], content: str | None = None) -> Plain:
    """The envelope of a reply that calls tools."""
    message = {"role": "assistant", "content": content, "tool_calls": calls}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls", "logprobs": None}
    usage = {"prompt_tokens": 50, "completion_tokens": 9, "total_tokens": 59}
    return {"id": "x", "object": "chat.completion", "created": 0, "model": model, "choices": [choice], "usage": usage}


def drawn_calls(body: Mapping[str, Any]) -> Calls:
    """Calls of valid experiments, or of the only tool that there is, by the prompt alone."""
    tools = {tool["function"]["name"]: tool["function"]["parameters"] for tool in body["tools"]}
    if len(tools) == 1:
        ((name, schema),) = tools.items()
        return [(name, {field: part["enum"][0] for field, part in schema["properties"].items()})]
    draw = random.Random(json.dumps(body["messages"]))
    known = [asked("ov", tokens=["the"]), asked("rows", kind="top", n=1), asked("detectors", data="all")]
    return [(one["tool"], one["arguments"]) for one in draw.sample(known, 2)]


def answer_by_tools(
    body: Mapping[str, Any], mode: str, model: str, calls: Callable[[Mapping[str, Any]], Calls] = drawn_calls
) -> tuple[int, Plain] | None:
    """Status and body for a request with tools, None where the server knows no tools; a probe of one tool is answered
    well, since a server that fails it is never asked with tools again."""
    if not mode or not body.get("tools"):
        return None
    chosen = calls(body)
    if len(body["tools"]) == 1 and mode != "nothing":
        mode = "good"
    if mode == "refused":
        return 400, {"error": {"message": "Extra inputs are not permitted: tools"}}
    if mode in ("prose", "nothing"):
        reply = calling(model, [], PROSE)
        reply["choices"][0]["finish_reason"] = "stop"
        return 200, reply
    texts = [(name, json.dumps(arguments)) for name, arguments in chosen]
    sent: dict[str, Calls] = {
        "good": [*texts],
        "objects": chosen,
        "malformed": [(name, text[:-2]) for name, text in texts],
        "unknown": [("shell", '{"command": "rm -rf /"}'), *texts],
        "thousand": [("ov", json.dumps({"tokens": [str(n)]})) for n in range(1000)],
        "twice": [*texts],
    }
    entries = [call_entry(n, *call) for n, call in enumerate(sent[mode])]
    return 200, calling(model, entries * 2 if mode == "twice" else entries)
