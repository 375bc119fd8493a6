"""Windows of texts as the passes over units read them: together, padded, in the order in which they come."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from autointerp.errors import BadInput
from autointerp.evidence.collect import ExplainWindows
from autointerp.evidence.examples import Windows
from autointerp.evidence.windows import Window


def gathered(windows: Iterable[Window]) -> ExplainWindows:
    """All windows in memory; each document is a cluster of its own. Raises BadInput where there is none."""
    found = list(windows)
    if not found:
        raise BadInput("there are no windows of text. Give longer texts.")
    lengths = np.array([len(window.ids) for window in found])
    ids = np.zeros((len(found), int(lengths.max())), np.int32)
    for row, window in zip(ids, found, strict=True):
        row[: len(window.ids)] = window.ids
    names = list(dict.fromkeys(window.doc_id for window in found))
    number = {name: place for place, name in enumerate(names)}
    doc = np.array([number[window.doc_id] for window in found])
    in_doc = np.array([window.window for window in found])
    return ExplainWindows(Windows(ids, lengths, doc, in_doc, names), np.arange(len(found)), doc, ids.shape[1])
