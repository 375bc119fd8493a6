"""features.csv: a row a reported neuron or latent, the columns of heads.csv where they apply, and its reader."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from autointerp.feature_records import FeatureReport
from autointerp.report.csv import SHARED, TEXT_COLUMNS, Row, Table, defined, looped, shared_row

COLUMNS = ("unit", *SHARED, "density", "ablation_loss", "active_share", "maximum", "state", "k", "rounds")
_TABLE = Table(COLUMNS, text=("unit", "state", *TEXT_COLUMNS))


def feature_row(report: FeatureReport) -> Row:
    """The columns of one unit, in order; numbers that are undefined are None."""
    stats = report.evidence.stats
    row: Row = {"unit": str(report.unit), **shared_row(report)}
    row |= {"density": stats.density, "ablation_loss": report.ablation_loss.value}
    row |= {"active_share": stats.active_share.value, "maximum": stats.maximum, "state": stats.state}
    return defined(row | looped(report.transcript))


def features_csv(rows: Iterable[Row]) -> str:
    """The text of features.csv."""
    return _TABLE.write(rows)


def read_features_csv(path: Path) -> list[Row]:
    """The rows of a features.csv with text unescaped and numbers as numbers; empty cells are None."""
    return _TABLE.read(path)
