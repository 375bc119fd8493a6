"""Prompt templates: a name and plain values in, messages out. The only importer of jinja2 for prompts.

Templates are files `NAME.jinja` in `prompts/` (shipped in the package) or in a user's own folder, which wins
name by name. Corpus text and replies enter only through the `data` filter, which writes them as JSON.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autointerp.errors import PromptError

if TYPE_CHECKING:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

SPLIT = "\n=== user ===\n"


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
    """JSON for a marked block: every non-ASCII, markup or control character is escaped."""
    text = json.dumps(value, ensure_ascii=True, separators=(", ", ": "))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


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
        from jinja2 import TemplateError, TemplateNotFound, UndefinedError

        environment = self._environment()
        try:
            text = environment.get_template(f"{name}.jinja").render(**values)
        except TemplateNotFound as error:
            places = " or ".join(str(f) for f in self._folders)
            raise PromptError(f"prompt template {error.name} is not in {places}. Add it there.") from None
        except UndefinedError as error:
            known = ", ".join(sorted(values))
            raise PromptError(f"prompt template {name}.jinja: {error.message}; it can use: {known}.") from None
        except TemplateError as error:
            line = getattr(error, "lineno", None)
            where = f" line {line}" if line else ""
            raise PromptError(f"prompt template {name}.jinja{where}: {error.message}. Correct it.") from None
        return Prompt(name, _messages(text), self.hash(name))

    def check(self, names: Iterable[str]) -> None:
        """Raise PromptError now for a template that is missing or does not parse."""
        from jinja2 import TemplateError

        for name in names:
            try:
                self._environment().get_template(f"{name}.jinja")
                self.hash(name)
            except TemplateError:
                self.render(name, {})

    def hash(self, name: str) -> str:
        """sha256 over the template and every template it includes, line ends normalised."""
        from jinja2 import meta

        environment = self._environment()
        digest, waiting, seen = hashlib.sha256(), [f"{name}.jinja"], set[str]()
        while waiting:
            current = waiting.pop()
            if current in seen or environment.loader is None:
                continue
            seen.add(current)
            source = environment.loader.get_source(environment, current)[0].replace("\r\n", "\n").strip()
            digest.update(source.encode())
            waiting += sorted(n for n in meta.find_referenced_templates(environment.parse(source)) if n)
        return digest.hexdigest()

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
