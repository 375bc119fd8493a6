"""Write the pages of a run over neurons or latents from its folder alone, as `write` does for heads."""

from __future__ import annotations

from pathlib import Path

from autointerp.report.csv import Row
from autointerp.report.feature_csv import feature_row, features_csv
from autointerp.report.feature_data import feature_card
from autointerp.report.feature_html import FeatureEntry, feature_page
from autointerp.report.feature_overview import FeatureOverview
from autointerp.report.feature_units import of_reports, read_units
from autointerp.report.folder import count_calls, open_features, read_json, replace_file
from autointerp.report.markdown import report_markdown
from autointerp.report.nouns import feature_nouns
from autointerp.report.summary import Summary


def write_feature_reports(run_folder: Path) -> None:
    """Write features.csv, report.html and report.md beside features.jsonl.

    Reads features.jsonl, and config.json, run.json, calls.jsonl and cache/units.npz where they are. Raises
    RunFolderError where features.jsonl is missing or damaged, the table of units is no such table, or the disk does not
    take the files (what was there stays).
    """
    folder = Path(run_folder)
    features = open_features(folder)
    units = read_units(folder / "cache" / "units.npz")
    summary = Summary()
    rows: list[Row] = []
    entries: list[FeatureEntry] = []
    for report in features.reports():
        summary.add(report)
        rows.append(feature_row(report))
        entries.append(FeatureEntry.of(rows[-1], report, feature_card(report)))
    overview = FeatureOverview(
        config=read_json(folder / "config.json"),
        run=read_json(folder / "run.json"),
        calls=count_calls(folder / "calls.jsonl"),
        summary=summary,
        nouns=feature_nouns(unit for unit, _ in features.places),
        units=of_reports(units, [(entry.unit, entry.state, entry.numbers) for entry in entries]),
    )
    replace_file(folder / "features.csv", features_csv(rows))
    replace_file(folder / "report.md", report_markdown(overview, rows))
    replace_file(folder / "report.html", feature_page(overview, entries))
