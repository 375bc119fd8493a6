"""The run folder and the request cache on disk: the only writer below `report`."""

from __future__ import annotations

from autointerp.store.calls import CallLog
from autointerp.store.folder import RunFolder, read_records
from autointerp.store.requests import RequestCache
from autointerp.store.typed import REMOVE_FILE, read_as

__all__ = ["REMOVE_FILE", "CallLog", "RequestCache", "RunFolder", "read_as", "read_records"]
