"""What a job over heads and one over neurons or latents share: options, result, what reports say, facts of the run."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from autointerp.config import RunConfig, Settings
from autointerp.errors import AutointerpError
from autointerp.explain import Explanation
from autointerp.feature_records import FeatureReport
from autointerp.pipeline.inputs import Inputs
from autointerp.pipeline.llm_scores import ByScorer, scores_of
from autointerp.pipeline.plan import Estimate
from autointerp.pipeline.run_state import RUN, RunState
from autointerp.pipeline.talking import Costs
from autointerp.records import Description, Failure, HeadReport, Provenance, Score, Status, Unit, Unscored
from autointerp.report.folder import read_json
from autointerp.report.nouns import unit_of
from autointerp.scoring.memo import Memo, NoMemo
from autointerp.store import REMOVE_FILE, CallLog, RunFolder, read_as

R = TypeVar("R", HeadReport, FeatureReport)


@dataclass(frozen=True)
class JobOptions:
    """How a run is run; nothing here changes a result."""

    settings: Settings
    command: str = ""
    retry_failed: bool = False
    dry_run: bool = False
    memo: Memo = field(default_factory=NoMemo, repr=False)  # shared by runs that differ in their descriptions alone


@dataclass
class UnitJobResult(Generic[R]):
    """What the command line says at the end."""

    folder: Path
    reports: list[R] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    estimate: Estimate | None = None
    stopped: AutointerpError | None = None

    @property
    def failed(self) -> list[R]:
        return [report for report in self.reports if report.status == "failed"]


def finished_reports(
    run: RunFolder, file: str, kind: type[R], wanted: Collection[Unit], *, retry_failed: bool
) -> list[R] | None:
    """The reports on disk, ascending, if they cover every unit, nothing stopped the run and none is to be tried again.

    Raises RunFolderError for reports of another version.
    """
    reports: dict[Unit, R] = {unit_of(report): report for report in read_as(run.path(file), kind, REMOVE_FILE)}
    told = read_json(run.path(RUN))  # written last: without it the end was not reached
    if set(reports) != set(wanted) or not told or told.get("stopped"):
        return None
    if retry_failed and any(report.status == "failed" for report in reports.values()):
        return None
    return [reports[unit] for unit in sorted(reports)]


class Scored(Protocol):
    """What a suite found for a unit."""

    scores: list[Score]
    unscored: list[Unscored]


@dataclass(frozen=True)
class Told:
    """What a report says of a unit's description, and all scores of it; a failed description has none that count."""

    outcome: Description | Failure
    failures: tuple[Failure, ...]
    provenance: Provenance
    scores: tuple[Score, ...]
    unscored: tuple[Unscored, ...]

    @classmethod
    def of(cls, config: RunConfig, explanation: Explanation, asked: ByScorer, found: Scored) -> Told:
        """From the explanation, the scores of scorers that asked, and those that cost no call."""
        outcome = explanation.outcome
        more = scores_of(config, outcome, asked)
        return cls(
            outcome,
            ((outcome,) if isinstance(outcome, Failure) else ()) + explanation.failures,
            explanation.provenance,
            (*found.scores, *(score for score in more if not isinstance(score, Unscored))),
            (*found.unscored, *(score for score in more if isinstance(score, Unscored))),
        )

    @property
    def description(self) -> Description | None:
        return None if isinstance(self.outcome, Failure) else self.outcome

    @property
    def status(self) -> Status:
        if isinstance(self.outcome, Failure):
            return "failed"
        return "abstained" if self.outcome.abstained else "described"

    @property
    def judged(self) -> tuple[Score, ...]:
        """The scores that a verdict is made from."""
        return () if isinstance(self.outcome, Failure) else self.scores


def run_facts(
    state: RunState, inputs: Inputs, costs: Costs, result: UnitJobResult[R], command: str
) -> dict[str, object]:
    """What `run.json` says of every run."""
    return {
        **inputs.summary(),
        "explainer": state.config.explainer,
        "lost_in_flight": state.lost(),
        "cost_usd": costs.cost_usd,
        "tokens": dict(zip(("prompt", "completion"), CallLog(state.run).tokens_used, strict=True)),
        "seconds": state.clock(),
        "notes": result.notes,
        "command": command,
        "stopped": None if result.stopped is None else str(result.stopped),
    }
