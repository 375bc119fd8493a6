"""Prompt templates: a name and plain values in, messages out. The only importer of jinja2 for prompts.

Templates are files `NAME.jinja` in `prompts/` (shipped in the package) or in a user's own folder, which wins
name by name. Corpus text and replies enter only through the `data` filter, which writes them as JSON.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autointerp.errors import PromptError

if TYPE_CHECKING:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

SPLIT = "\n=== user ===\n"
# What each template of the product is given; a user's template can use these and no others.
VARIABLES: dict[str, tuple[str, ...]] = {
    "agent_experiments": ("evidence", "history", "instruction", "labels", "most", "rounds_left", "tools"),
    "agent_experiments_feature": ("evidence", "history", "instruction", "labels", "most", "rounds_left", "tools"),
    "agent_hypotheses": ("evidence", "history", "instruction", "labels", "most"),
    "agent_hypotheses_feature": ("evidence", "history", "instruction", "labels", "most"),
    "agent_revision": ("evidence", "history", "instruction", "labels", "rounds_left"),
    "agent_revision_feature": ("evidence", "history", "instruction", "labels", "rounds_left"),
    "detection": ("conditions", "items", "looks_at"),
    "detection_feature": ("conditions", "items", "looks_at"),
    "effect": ("candidates", "conditions", "items", "looks_at", "writes"),
    "effect_feature": ("candidates", "conditions", "items", "looks_at", "writes"),
    "explain": ("evidence", "instruction", "labels"),
    "explain_feature": ("evidence", "instruction", "labels"),
    "no_evidence": (),
    "no_evidence_feature": (),
    "pointing": ("conditions", "items", "looks_at"),
    "repair": ("reason",),
    "simulation": ("conditions", "items", "looks_at"),
}
FEATURE_TEMPLATES = tuple(name for name in VARIABLES if name.endswith("_feature") or name == "simulation")
"""Those about neurons and latents; `repair` serves all."""
_DATA_FAULTS = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError)


@dataclass(frozen=True)
class Prompt:
    """Chat messages ready to send, with the hash of the templates that they were made from."""

    name: str
    messages: tuple[dict[str, str], ...]
    template_hash: str


def shipped_folder() -> Path:
    """The folder of the templates that come with the product (inside the wheel, or the checkout's `prompts/`)."""
    inside = Path(__file__).parent / "prompts"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "prompts"


def as_data(value: object) -> str:
    """JSON for a marked block: every non-ASCII, markup or control character is escaped; NaN is null."""
    text = json.dumps(_finite(value), ensure_ascii=True, allow_nan=False, separators=(", ", ": "))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


class Templates:
    """Renders templates from a user's folder first, then from the shipped one."""

    def __init__(self, folder: Path | None = None) -> None:
        if folder is not None and not folder.is_dir():
            raise PromptError(f"--prompts {folder} is not a folder. Give a folder with NAME.jinja files.")
        self._folders = [f for f in (folder, shipped_folder()) if f is not None]

    def render(self, name: str, values: Mapping[str, object]) -> Prompt:
        """Render `NAME.jinja`; the part before a line `=== user ===` is the system message.

        Raises PromptError for a missing template, a syntax error or an undefined variable.
        """
        with self._faults(name, values):
            text = self._environment().get_template(f"{name}.jinja").render(**values)
        return Prompt(name, _messages(text), self.hash(name))

    def check(self, names: Iterable[str]) -> None:
        """Raise PromptError now for a template that is missing, does not parse, or uses a variable it is not given."""
        from jinja2 import meta, nodes

        environment = self._environment()
        for name in names:
            with self._faults(name, VARIABLES[name]):
                environment.get_template(f"{name}.jinja")
                parsed = [environment.parse(source, file) for file, source in self._sources(name)]
                for node in (found for tree in parsed for found in tree.find_all(nodes.Include)):
                    if isinstance(node.template, nodes.Const) and not node.ignore_missing:
                        environment.get_template(node.template.value)
            used = set[str]().union(*(meta.find_undeclared_variables(tree) for tree in parsed))
            # an included template sees what the including one sets
            made = {node.name for tree in parsed for node in tree.find_all(nodes.Name) if node.ctx != "load"}
            unknown = sorted(used - made - set(VARIABLES[name]))
            if unknown:
                known = ", ".join(VARIABLES[name])
                raise PromptError(
                    f"prompt template {name}.jinja uses {', '.join(unknown)}; it can use: {known}. Correct the name."
                )

    def hash(self, name: str) -> str:
        """sha256 over the template and every template it includes, line ends normalised. Raises PromptError."""
        digest = hashlib.sha256()
        with self._faults(name, ()):
            for _, source in self._sources(name):
                digest.update(source.encode())
        return digest.hexdigest()

    def _sources(self, name: str) -> list[tuple[str, str]]:
        """The template and those that it includes, by file name; one that may be missing may be missing here too."""
        from jinja2 import TemplateNotFound, meta

        environment = self._environment()
        found: dict[str, str] = {}
        waiting = [f"{name}.jinja"]
        while waiting:
            current = waiting.pop()
            if current in found or environment.loader is None:
                continue
            try:
                source = environment.loader.get_source(environment, current)[0].replace("\r\n", "\n").strip()
            except TemplateNotFound:
                if not found:
                    raise
                continue  # rendering says so, unless the include may be missing
            found[current] = source
            waiting += sorted(n for n in meta.find_referenced_templates(environment.parse(source, current)) if n)
        return list(found.items())

    @contextmanager
    def _faults(self, name: str, known: Iterable[str]) -> Iterator[None]:
        """Turns what can go wrong with somebody's template into a PromptError."""
        from jinja2 import TemplateError, TemplateNotFound, UndefinedError

        try:
            yield
        except TemplateNotFound as error:
            places = " or ".join(str(f) for f in self._folders)
            raise PromptError(f"prompt template {error.name} is not in {places}. Add it there.") from None
        except UndefinedError as error:
            listed = ", ".join(sorted(known))
            raise PromptError(f"prompt template {name}.jinja: {error.message}; it can use: {listed}.") from None
        except TemplateError as error:
            line, file = getattr(error, "lineno", None), getattr(error, "name", None) or f"{name}.jinja"
            where = f" line {line}" if line else ""
            raise PromptError(f"prompt template {file}{where}: {error.message}. Correct it.") from None
        except UnicodeDecodeError:
            raise PromptError(f"prompt template {name}.jinja is not UTF-8 text. Save it again as UTF-8.") from None
        except _DATA_FAULTS as error:
            fault = f"{type(error).__name__}: {error}"
            raise PromptError(f"prompt template {name}.jinja: {fault[:200]}. Correct it.") from None

    def _environment(self) -> ImmutableSandboxedEnvironment:
        from jinja2 import FileSystemLoader, StrictUndefined
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        loader = FileSystemLoader([str(f) for f in self._folders])
        options: dict[str, Any] = {"undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
        environment = ImmutableSandboxedEnvironment(loader=loader, autoescape=False, **options)
        environment.filters["data"] = as_data
        return environment


def _messages(text: str) -> tuple[dict[str, str], ...]:
    text = text.replace("\r\n", "\n")
    parts = text.split(SPLIT, 1)
    if len(parts) == 1:
        return ({"role": "user", "content": text.strip()},)
    return tuple({"role": r, "content": p.strip()} for r, p in zip(("system", "user"), parts, strict=True))
