"""From a run folder on disk to its pages (`heads.csv`, `report.html`, `report.md`), and a terminal card."""

from __future__ import annotations

from autointerp.report.card import card_text
from autointerp.report.write import write_reports

__all__ = ["card_text", "write_reports"]
