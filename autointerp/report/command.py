"""The command that reproduces one unit of a run, from the run's own command or from its config."""

from __future__ import annotations

import re
import shlex
from typing import Any, Literal

from autointerp.config import RunConfig

UNIT = "@UNIT@"  # stands for the unit in the template; made of characters that a shell leaves alone
_UNIT = re.compile(r"[Ll]\d+[HhNnFf]\d+")
_DROP_VALUE = {"--heads", "--select", "--sample", "--out", "--format", "--api-key"}
_DROP_FLAG = {"--retry-failed", "--dry-run"}
Kind = Literal["head", "feature"]


def unit_command(config: dict[str, Any], command: str | None, kind: Kind = "head") -> str:
    """A shell line with `@UNIT@` where the unit goes: `autointerp describe-head @UNIT@ --model demo ...`."""
    words = _from_command(command, kind) if command else None
    return shlex.join([*(words or _from_config(config, kind)), "--out", f"runs/{UNIT}"])


def _from_command(command: str, kind: Kind) -> list[str] | None:
    try:
        words = shlex.split(command)
    except ValueError:
        return None
    one = f"describe-{kind}"
    place = next((i for i, word in enumerate(words) if word in {one, f"describe-all-{kind}s"}), None)
    if place is None:
        return None
    rest = words[place + 1 :]
    if words[place] == one:
        named = next((i for i, word in enumerate(rest) if (i == 0 and word[:1] != "-") or _UNIT.fullmatch(word)), None)
        rest = [word for i, word in enumerate(rest) if i != named]
    return [*words[:place], one, UNIT, *_without_run_options(rest)]


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


def _from_config(config: dict[str, Any], kind: Kind) -> list[str]:
    words = ["autointerp", f"describe-{kind}", UNIT]
    for name, field in RunConfig.model_fields.items():
        value = config.get(name)
        implied = name == "agent" and config.get("explainer") == "llm"  # the command line's default is another one
        if (
            name in {"heads", "select", "sample", "blind"}
            or value is None
            or (_same(value, field.default) and not implied)
        ):
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
