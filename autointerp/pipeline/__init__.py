"""The job over many heads: wiring, concurrency, resume, stop rule."""

from __future__ import annotations

from autointerp.pipeline.inputs import Inputs, Sources, load_inputs, parse_heads
from autointerp.pipeline.job import Console, JobOptions, JobResult, run_job

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
