"""`circuit.json`: the heads that a study found, kept for the runs that describe heads of the same model."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from autointerp.circuit_records import StudyCircuit
from autointerp.errors import BadInput
from autointerp.lenses.entity_checkpoint import weights_hash
from autointerp.model import LanguageModel
from autointerp.store.files import write_whole

CIRCUIT = "circuit.json"


def revision_of(model: LanguageModel) -> str:
    """The revision of the weights; their content where none is known."""
    return weights_hash(model) if model.revision in ("", "unknown", "callable") else model.revision


def write_circuit(path: Path, circuit: StudyCircuit) -> None:
    """Write the file whole."""
    write_whole(path, (circuit.model_dump_json(indent=1) + "\n").encode())


def read_circuit(path: Path) -> StudyCircuit:
    """Raises BadInput for a file that is not there or that is none."""
    try:
        return StudyCircuit.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BadInput(f"--circuit {path} cannot be read ({error.strerror}). Give a circuit.json.") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise BadInput(
            f"--circuit {path} is no circuit ({where}: {first['msg']}). Give a circuit.json of `autointerp replicate`."
        ) from None


def check_same_model(circuit: StudyCircuit, model: LanguageModel) -> None:
    """Raises BadInput where the circuit belongs to other weights; what the model is called does not matter."""
    own = revision_of(model)
    if circuit.revision != own:
        raise BadInput(
            f"--circuit is of {circuit.model} ({circuit.revision}), not of this model ({own}). Run `autointerp "
            f"replicate {circuit.study}` on this one."
        )
