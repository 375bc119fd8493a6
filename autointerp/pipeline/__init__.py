"""The job over many heads: wiring, concurrency, resume, stop rule."""

from __future__ import annotations

from autointerp.pipeline.inputs import Inputs, Sources, load_inputs, parse_heads
from autointerp.pipeline.job import JobResult, run_job
from autointerp.pipeline.run_state import Console
from autointerp.pipeline.unit_job import JobOptions

__all__ = [
    "Console",
    "Inputs",
    "JobOptions",
    "JobResult",
    "Sources",
    "load_inputs",
    "parse_heads",
    "run_job",
]
