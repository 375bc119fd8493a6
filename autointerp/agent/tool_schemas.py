"""The schemas of experiments: in words for the prompt, as functions for servers with tools, and bare for grammars."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from autointerp.agent.requests import Toolset
from autointerp.llm import ToolSpec

Plain = dict[str, Any]


def tools_shown(tools: Toolset) -> list[Plain]:
    """The experiments as a prompt lists them; what an argument means is said once."""
    said: set[str] = set()
    return [
        {"tool": tool.name, "does": tool.description, "arguments": _arguments(tool.schema, said)}
        for tool in tools.tools.values()
    ]


def tool_specs(tools: Toolset) -> tuple[ToolSpec, ...]:
    """The experiments as functions for a server that calls tools."""
    found = tools.tools.values()
    return tuple(ToolSpec(name=t.name, description=t.description, parameters=bare(t.schema)) for t in found)


def _arguments(schema: Mapping[str, Any], said: set[str]) -> Any:
    """A schema in a few words: names with types, bounds, and what they mean unless that was `said`."""
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if schema.get("type") == "object":
        return {name: _arguments(part, said) for name, part in schema.get("properties", {}).items()}
    if schema.get("type") == "array":
        return [_arguments(schema.get("items", {}), said), f"at most {schema.get('maxItems', 'a few')}"]
    default = f", default {json.dumps(schema['default'])}" if "default" in schema else ""
    longest = f", at most {schema['maxLength']} characters" if "maxLength" in schema else ""
    means = schema.get("description", "")
    new = f": {means}" if means and means not in said else ""
    said.add(means)
    return f"{schema.get('type', 'value')}{longest}{default}{new}"


def bare(schema: Any) -> Any:
    """A schema without what grammars of small servers choke on: the bounds are checked when the request is read. Every
    argument is required, since some servers know no optional ones."""
    if isinstance(schema, list):
        return [bare(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    if schema.get("type") == "object":
        properties = {name: bare(part) for name, part in schema.get("properties", {}).items()}
        return closed(properties)
    return {name: bare(part) for name, part in schema.items() if name in ("type", "enum", "items", "anyOf", "maxItems")}


def closed(properties: Plain) -> Plain:
    """A schema of an object with these properties, all required, and no other."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
