"""From a run folder on disk to its pages (`heads.csv` or `features.csv`, `report.html`, `report.md`), and a terminal
card."""

from __future__ import annotations

from autointerp.report.card import card_text
from autointerp.report.feature_card import feature_card_text
from autointerp.report.feature_write import write_feature_reports
from autointerp.report.write import write_reports

__all__ = ["card_text", "feature_card_text", "write_feature_reports", "write_reports"]
