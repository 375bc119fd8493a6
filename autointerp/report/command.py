"""The command that reproduces one head of a run, from the run's own command or from its config."""

from __future__ import annotations

import re
import shlex
from typing import Any

from autointerp.config import RunConfig

HEAD = "@HEAD@"  # stands for the head in the template; made of characters that a shell leaves alone
_HEAD = re.compile(r"[Ll]\d+[Hh]\d+")
_DROP_VALUE = {"--heads", "--out", "--format", "--api-key"}
_DROP_FLAG = {"--retry-failed", "--dry-run"}
_VERBS = {"describe-all-heads", "describe-head"}


def head_command(config: dict[str, Any], command: str | None) -> str:
    """A shell line with `@HEAD@` where the head goes: `autointerp describe-head @HEAD@ --model demo ...`."""
    words = _from_command(command) if command else None
    return shlex.join([*(words or _from_config(config)), "--out", f"runs/{HEAD}"])


def _from_command(command: str) -> list[str] | None:
    try:
        words = shlex.split(command)
    except ValueError:
        return None
    place = next((i for i, word in enumerate(words) if word in _VERBS), None)
    if place is None:
        return None
    rest = words[place + 1 :]
    if words[place] == "describe-head":
        named = next((i for i, word in enumerate(rest) if (i == 0 and word[:1] != "-") or _HEAD.fullmatch(word)), None)
        rest = [word for i, word in enumerate(rest) if i != named]
    return [*words[:place], "describe-head", HEAD, *_without_run_options(rest)]


def _without_run_options(words: list[str]) -> list[str]:
    kept: list[str] = []
    skip = False
    for word in words:
        name = word.split("=", 1)[0]
        if skip:
            skip = False
        elif name in _DROP_VALUE:
            skip = "=" not in word
        elif word not in _DROP_FLAG:
            kept.append(word)
    return kept


def _from_config(config: dict[str, Any]) -> list[str]:
    words = ["autointerp", "describe-head", HEAD]
    for name, field in RunConfig.model_fields.items():
        value = config.get(name)
        implied = name == "agent" and config.get("explainer") == "llm"  # the command line's default is another one
        if name in {"heads", "blind"} or value is None or (_same(value, field.default) and not implied):
            continue
        option = "--" + name.replace("_", "-")
        if isinstance(value, list | tuple):
            repeated = name == "corpus"
            words += [part for item in value for part in (option, str(item))] if repeated else [option, ",".join(value)]
        else:
            words += [option, str(value)]
    return words


def _same(value: object, default: object) -> bool:
    return (list(value) if isinstance(value, tuple | list) else value) == (
        list(default) if isinstance(default, tuple) else default
    )
