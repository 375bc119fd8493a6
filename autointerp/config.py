"""What changes a result (`RunConfig`, saved in the run folder) and what does not (`Settings`: keys, URLs, speed).

This module is the only reader of the environment and of `.env`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
)

from autointerp.errors import BadInput

ENV_NAMES = {
    "AUTOINTERP_LLM": "llm",
    "AUTOINTERP_JUDGE": "judge",
    "AUTOINTERP_TIMEOUT": "timeout",
    "AUTOINTERP_CONCURRENCY": "concurrency",
    "OPENAI_BASE_URL": "base_url",
    "OPENAI_API_KEY": "api_key",
}


DEFAULT_SCORERS = ("predicate", "pointing", "detection", "effect", "conditional_ablation", "patching", "ablation")
SCORERS = (*DEFAULT_SCORERS, "probe")
FEATURE_SCORERS = ("predicate", "detection", "simulation", "effect", "conditional_ablation", "steering", "ablation")
DEFAULT_AGENT, MAX_ROUNDS, MAX_BEST_OF = "rounds=2", 20, 200
LENSES = ("logit", "entity", "selfie")
NO_LENSES = ("none",)


@dataclass(frozen=True)
class AgentPlan:
    """What `--agent` says. `rounds` 0 is off; `shuffled` hands every head the answers that another head's experiments
    got, and `best_of` K takes the best of K one-shot answers instead of rounds: the controls of `bench agent`."""

    rounds: int = 0
    shuffled: bool = False
    best_of: int = 0

    @classmethod
    def parse(cls, text: str) -> AgentPlan:
        """Read `off`, `rounds=N`, `rounds=N,shuffled` or `best_of=K`. Raises ValueError."""
        if text == "off":
            return cls()
        name, _, rest = text.partition("=")
        number, _, more = rest.partition(",")
        most = {"rounds": MAX_ROUNDS, "best_of": MAX_BEST_OF}.get(name, 0)
        if not most or not number.isdecimal() or more not in ("", "shuffled") or (more and name != "rounds"):
            raise ValueError("write off or rounds=N")
        if not 1 <= int(number) <= most:
            raise ValueError(f"{name} is a number from 1 to {most}")
        if name == "best_of":
            return cls(best_of=int(number))
        return cls(rounds=int(number), shuffled=more == "shuffled")

    @property
    def on(self) -> bool:
        """Whether anything is done after the one shot."""
        return self.rounds > 0 or self.best_of > 1


_ADDED = ("circuit", "units", "select", "sample")


class RunConfig(BaseModel):
    """Everything that changes a result; two runs with equal configs and replies have equal numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = "demo"
    corpus: tuple[str, ...] = ("demo",)
    text_column: str = "text"
    heads: str = ""  # empty: all
    max_tokens: int = Field(default=200_000, ge=1)
    context: int = Field(default=128, ge=2)
    device: str = "auto"
    dtype: str = "auto"
    seed: int = 0
    explainer: Literal["auto", "llm", "detectors"] = "auto"
    llm: str = ""
    judge: str = ""  # a second model of the same server, asked on a tenth of the heads
    base_url: str = ""
    temperature: float = 0.0
    max_reply_tokens: int = 700
    prompts: str = ""
    instruction: str = ""
    scorers: tuple[str, ...] = DEFAULT_SCORERS
    agent: str = "off"
    lenses: tuple[str, ...] = ()  # empty: those that need no more than there is (`chosen_lenses`)
    entity_vectors: str = ""  # empty: those trained here or shipped, if any
    blind: bool = True
    circuit: str = ""  # circuit.json of a study of this model
    units: str = ""  # neurons or latents instead of heads: `neurons:L3`, `sae:FOLDER`
    select: str = ""  # of these units only some: `L3F17,L3F20-L3F40`
    sample: int = Field(default=0, ge=0)  # of these units so many, drawn by how they activate; 0: all

    @model_serializer(mode="wrap")
    def _saved(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what is not set and was not there when earlier runs were saved, so that these go on."""
        found: dict[str, Any] = plain(self)
        return {name: value for name, value in found.items() if value or name not in _ADDED}

    @field_validator("agent")
    @classmethod
    def _agent_is_read(cls, value: str) -> str:
        AgentPlan.parse(value)
        return value

    @property
    def agent_plan(self) -> AgentPlan:
        """`agent`, read."""
        return AgentPlan.parse(self.agent)


def chosen_lenses(names: Sequence[str]) -> tuple[str, ...]:
    """Lenses as a config holds them: () for the logit lens, and the entity lens where there are vectors; NO_LENSES;
    or those named, the logit lens always. Raises BadInput for an unknown name, and for `none` beside others."""
    unknown = sorted(set(names) - {*LENSES, *NO_LENSES})
    if unknown:
        raise BadInput(f"--lenses names {', '.join(unknown)}; known are {', '.join((*LENSES, *NO_LENSES))}.")
    if "none" in names:
        if set(names) != {"none"}:
            raise BadInput("--lenses names none and others. Give one or the other.")
        return NO_LENSES
    return tuple(name for name in LENSES if name in names or name == "logit") if names else ()


def check_lenses(config: RunConfig) -> None:
    """Raises BadInput for lenses that cannot be meant, before a model is loaded."""
    names = chosen_lenses(config.lenses)
    if not config.entity_vectors:
        return
    if names and "entity" not in names:
        raise BadInput(f"--entity-vectors is given, but --lenses is {','.join(names)}. Add entity, or leave one away.")
    if not Path(config.entity_vectors).is_file():
        raise BadInput(
            f"--entity-vectors {config.entity_vectors} is no file. Give one that `autointerp entity-lens train` wrote."
        )


class Settings(BaseModel):
    """What may differ between two runs of the same config: secrets, speed, limits. Never saved."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    api_key: SecretStr | None = None
    llm: str = ""
    base_url: str = ""
    timeout: float = Field(default=600.0, gt=0)
    concurrency: int = Field(default=8, ge=1, le=256)
    batch_size: int = Field(default=8, ge=1)
    retry_base: float = Field(default=1.0, gt=0)  # seconds before the first retry
    budget_usd: float | None = Field(default=None, gt=0)
    budget_tokens: int | None = Field(default=None, gt=0)
    price_input: float | None = Field(default=None, ge=0)  # USD a million tokens
    price_output: float | None = Field(default=None, ge=0)


def read_environment(directory: Path | None = None) -> dict[str, str]:
    """Values named in `ENV_NAMES` from the environment and the nearest `.env`, the environment winning.

    Blank values count as absent. Raises BadInput for a `.env` that is not UTF-8 or that holds an
    AUTOINTERP_ name we do not know.
    """
    path, found = _dotenv_values(directory or Path.cwd())
    for name in found:
        if name not in ENV_NAMES and name.startswith("AUTOINTERP_") and name != "AUTOINTERP_SHARED":
            known = ", ".join(sorted(ENV_NAMES))
            raise BadInput(f"unknown option {name} in {path}; known names are {known}. Correct or remove it.")
    merged = {**found, **{name: os.environ[name] for name in ENV_NAMES if name in os.environ}}
    values = {ENV_NAMES[name]: value.strip() for name, value in merged.items() if name in ENV_NAMES}
    return {name: value for name, value in values.items() if value}


def _dotenv_values(directory: Path) -> tuple[Path | None, dict[str, str]]:
    from io import StringIO

    from dotenv import dotenv_values

    path = next((p / ".env" for p in (directory, *directory.parents) if (p / ".env").is_file()), None)
    if path is None:
        return None, {}
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 text (byte {error.start}). Save it again as UTF-8.") from None
    if "\0" in text:  # UTF-16 without a byte order mark is valid UTF-8, and would read as an empty file
        raise BadInput(f"{path} is not UTF-8 text (byte {data.index(0)} is NUL). Save it again as UTF-8.")
    values = dotenv_values(stream=StringIO(text))
    return path, {name: value for name, value in values.items() if value is not None}
