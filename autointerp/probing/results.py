"""What a probe study reports of one site: frozen, written as JSON as it is."""

from __future__ import annotations

from typing import Literal

from autointerp.records import Real, Record, Unscored

Kind = Literal["floor", "presence", "movement", "context", "capacity"]


class Bounds(Record):
    """A value with its 95 % interval."""

    value: Real
    low: Real
    high: Real

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


class ProbeControl(Record):
    """A baseline or control on the same split; `difference` is the site's accuracy minus this one's, paired.

    `floor` and `presence` controls say whether the information is there at all; `movement` ones whether this head
    brought it; `capacity` what the probe memorises; `context` rows are shown and decide nothing.
    """

    name: str
    kind: Kind
    accuracy: Bounds
    difference: Bounds
    beaten: bool
    detail: str = ""


class ProbeResult(Record):
    """The result line of a site and all that stands behind it. `status` is empty or `underpowered`."""

    site: str
    split: str
    accuracy: Bounds
    macro_f1: Real
    log_loss: Real  # nats, mean over test items
    fold_mean: Real
    folds: tuple[Real, ...]
    penalties: tuple[Real, ...]
    confusion: tuple[tuple[int, ...], ...]  # [true][predicted]
    class_names: tuple[str, ...]
    chance: Real  # share of the largest class
    one_over_c: Real
    n_items: int
    n_groups: int
    n_train: Real  # mean over folds
    controls: tuple[ProbeControl, ...]
    unscored: tuple[Unscored, ...]
    best_control: str
    margin: Bounds
    p_margin: Real
    q_margin: Real  # Benjamini-Hochberg over all sites of the study
    n_sites: int
    selectivity: Bounds | None
    selectivity_note: str
    p_shuffled: Real
    head_percentile: Real
    n_other_heads: int
    status: str
    present: bool
    conclusion: str

    def control(self, name: str) -> ProbeControl | None:
        """The control of that name, or None where it could not be run."""
        return next((control for control in self.controls if control.name == name), None)
