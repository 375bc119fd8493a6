"""Linear probes: labelled items to activations, probes, controls, and the causal check. Nothing here is imported early.

`ProbeItem`, `read_items` and the builders make data; `run_study` probes sites with all controls; `probe_head` is the
small version for a described head.
"""

from __future__ import annotations

from autointerp.probing.builders import corpus_items, template_items
from autointerp.probing.dataset import read_items
from autointerp.probing.items import ProbeItem, check_items, place_items

__all__ = ["ProbeItem", "check_items", "corpus_items", "place_items", "read_items", "template_items"]
