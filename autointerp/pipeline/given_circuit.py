"""The circuit of a study that `--circuit` hands to the scorers."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from autointerp.circuit_records import StudyCircuit
from autointerp.circuits.saved import check_same_model, read_circuit
from autointerp.config import RunConfig
from autointerp.model import LanguageModel


@dataclass(frozen=True)
class GivenCircuit:
    """What the file held; nothing where none was given."""

    found: StudyCircuit | None = None

    def check(self, model: LanguageModel) -> None:
        """Raises BadInput where it is of another model."""
        if self.found is not None:
            check_same_model(self.found, model)

    def facts(self) -> dict[str, str]:
        """For `config.json`: the content, so that a changed file is another run."""
        return {"circuit": sha256(self.found.model_dump_json().encode()).hexdigest()[:16]} if self.found else {}


def given_circuit(config: RunConfig) -> GivenCircuit:
    """Read it. Raises BadInput for a file that is none."""
    return GivenCircuit(read_circuit(Path(config.circuit)) if config.circuit else None)
