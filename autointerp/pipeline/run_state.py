"""What every kind of run does with its folder: its config before anything else, the time of its stages, what was lost.

A folder that is no run, or another run, must stay as it is; a run of the same config goes on.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from autointerp.config import RunConfig, Settings
from autointerp.errors import BudgetExceeded
from autointerp.pipeline.inputs import Inputs
from autointerp.pipeline.talking import CACHE, template_names, templates, try_server
from autointerp.pipeline.versions import versions
from autointerp.report.folder import read_json
from autointerp.store import RequestCache, RunFolder

CONFIG, RUN = "config.json", "run.json"
NOT_COMPARED = ("versions",)


class Console(Protocol):
    """Where progress and notes go."""

    def __call__(self, stage: str, done: int, of: int) -> None:
        """One step of a stage is done; `of` 0 marks a note."""
        ...


class RunState:
    """One run's folder, config and clock."""

    def __init__(self, run: RunFolder, config: RunConfig, settings: Settings) -> None:
        self.run, self.config, self.settings = run, config, settings
        self._started = time.monotonic()
        self.seconds: dict[str, float] = {}

    @property
    def llm(self) -> bool:
        """Whether a language model explains."""
        return self.config.explainer == "llm"

    def compare_config(self, found_later: tuple[str, ...]) -> None:
        """Before anything is loaded or written. `found_later`: what `save_config` adds beside the config itself."""
        wanted = {"config": self.config.model_dump(mode="json")}
        if set(read_json(self.run.path(CONFIG))) == {"config"}:
            self.run.write_json(CONFIG, wanted)  # model or corpus could not be used: nothing was made with it
        self.run.ensure_config(wanted, ignore=found_later)

    def save_config(self, inputs: Inputs, more: Mapping[str, object]) -> None:
        """The config with everything else that determines results: `more`, and what all runs have."""
        held = json.loads(self.run.path(CONFIG).read_text(encoding="utf-8"))
        wanted = {"config": self.config.model_dump(mode="json"), **self._numerics(inputs), **more}
        wanted["versions"] = versions()
        if set(held) == {"config"}:
            self.run.write_json(CONFIG, wanted)
        else:
            self.run.ensure_config(wanted, ignore=NOT_COMPARED)

    def _numerics(self, inputs: Inputs) -> dict[str, object]:
        return {
            "model_revision": inputs.model.revision,
            "dtype": str(inputs.model.dtype).removeprefix("torch."),
            "bos_rule": inputs.model.bos_rule,
            "processing": {"fold_ln": False, "center_unembed": False, "value_bias": "constant part subtracted"},
            "corpus_hash": inputs.corpus.report.corpus_hash,
            "seed": self.config.seed,
            "templates": {n: templates(self.config).hash(n) for n in template_names(self.config)},
        }

    def try_server(self) -> None:
        """A wrong address or key must be known before an hour of collecting."""
        # A budget that does not even allow to ask what the server can do stops the run where it describes.
        with suppress(BudgetExceeded):
            asyncio.run(try_server(self.run, self.config, self.settings))

    def lost(self) -> int:
        """Requests that an earlier process sent and got no answer to."""
        path: Path = self.run.root.parent / CACHE
        if not self.llm or not path.exists():
            return 0
        with RequestCache(path, self.run.run_id) as cache:
            return cache.lost_in_flight(self.run.run_id)

    def timed(self, stage: str) -> None:
        """The stage that just ended took the time since the one before."""
        spent = time.monotonic() - self._started
        self.seconds[stage] = max(0.0, round(spent - sum(self.seconds.values()), 2))

    def clock(self) -> dict[str, float]:
        """Seconds by stage, and in all."""
        return {**self.seconds, "total": round(time.monotonic() - self._started, 2)}


FOUND_LATER = (
    "model_revision", "dtype", "bos_rule", "processing", "corpus_hash", "seed", "templates", "versions",
)  # fmt: skip
