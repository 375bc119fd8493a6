"""What changes a result (`RunConfig`, saved in the run folder) and what does not (`Settings`: keys, URLs, speed).

This module is the only reader of the environment and of `.env`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from autointerp.errors import BadInput

ENV_NAMES = {
    "AUTOINTERP_LLM": "llm",
    "AUTOINTERP_TIMEOUT": "timeout",
    "AUTOINTERP_CONCURRENCY": "concurrency",
    "OPENAI_BASE_URL": "base_url",
    "OPENAI_API_KEY": "api_key",
}


DEFAULT_SCORERS = ("predicate", "pointing", "detection", "effect", "conditional_ablation", "patching", "ablation")
SCORERS = (*DEFAULT_SCORERS, "probe")


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
    base_url: str = ""
    temperature: float = 0.0
    max_reply_tokens: int = 700
    prompts: str = ""
    instruction: str = ""
    scorers: tuple[str, ...] = DEFAULT_SCORERS
    agent: str = "off"
    lenses: tuple[str, ...] = ()
    blind: bool = True


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
