"""The command line: the only place that prints. Importing it loads no torch."""

from __future__ import annotations

from autointerp.cli.main import main

__all__ = ["main"]
