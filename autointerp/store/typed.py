"""JSONL files of a run read as records: a line that is not one says which, and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from autointerp.errors import RunFolderError
from autointerp.store.folder import numbered_records

REMOVE_LINE = "Remove that line and give the same command: what it held is made again."
REMOVE_FILE = "Remove the file and give the same command: it is written again."
R = TypeVar("R", bound=BaseModel)


def read_as(path: Path, kind: type[R], step: str = REMOVE_LINE) -> list[R]:
    """All records of a JSONL file, an empty list where there is none.

    Raises RunFolderError for a line that is not JSON, or of another shape than `kind`: written by another version, or
    changed since. `step` says what to do then.
    """
    found: list[R] = []
    for number, record in numbered_records(path):
        try:
            found.append(kind.model_validate(record))
        except ValidationError as error:
            problem = error.errors()[0]
            place = ".".join(str(part) for part in problem["loc"]) or "the line"
            raise RunFolderError(
                f"{path} line {number} is not as this version writes it ({place}: {problem['msg']}). {step}"
            ) from None
    return found
