"""The entity lens in a notebook: a text box, its tokens to click, layer and context to choose.

`LensPanel` holds the state and needs no widgets; `entity_widget` draws it with ipywidgets.
"""

from __future__ import annotations

from dataclasses import replace
from html import escape
from typing import Any

from autointerp.errors import BadInput
from autointerp.lenses.entity import LensOptions, entity_lens
from autointerp.lenses.entity_checkpoint import EntityVectors, find_vectors
from autointerp.lenses.entity_frame import Context, Frame
from autointerp.lenses.entity_result import EntityReading, LensCell
from autointerp.lenses.entity_run import PromptRunner
from autointerp.model import LanguageModel
from autointerp.tokentext import printable, visible

CONTEXTS: tuple[Context, ...] = ("none", "prefix", "sentence")


class LensPanel:
    """A text, a token of it, a layer and a context. The task vector follows the layer, and is another one in another
    context; nothing is read again unless text or context change."""

    def __init__(
        self, model: LanguageModel, vectors: EntityVectors | None = None, options: LensOptions | None = None
    ) -> None:
        self._model, self._options = model, options or LensOptions()
        self._runner = PromptRunner(model, Frame.of(model))
        given = [vectors] if vectors is not None else [find_vectors(model, context) for context in CONTEXTS]
        self.vectors = {found.context: found for found in given if found is not None}
        if not self.vectors:
            raise BadInput(f"there are no entity-lens vectors for {model.name}. Run `autointerp entity-lens train`.")
        self.context: Context = next(iter(self.vectors))
        self.reading: EntityReading | None = None
        self.pos = 1
        self.layer = self.layers[-1]

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that have a vector in this context."""
        return self.vectors[self.context].layers

    def set_text(self, text: str) -> None:
        """Read a text; the last token is chosen."""
        options = replace(self._options, layers=self.layers)
        self.reading = entity_lens(self._model, self.vectors[self.context], text, options, self._runner)
        self.pos = len(self.reading.tokens)

    def set_context(self, context: Context) -> None:
        """Use the vectors of another context, and read the text again with them. Raises BadInput without vectors."""
        if context not in self.vectors:
            raise BadInput(f"there are no vectors of context {context!r}; there are {', '.join(self.vectors)}.")
        self.context = context
        self.layer = self.layer if self.layer in self.layers else self.layers[-1]
        if self.reading is not None:
            pos = self.pos
            self.set_text(self.reading.text)
            self.pos = pos

    def cell(self) -> LensCell:
        """The chosen token at the chosen layer. Raises BadInput before a text is read."""
        if self.reading is None:
            raise BadInput("no text is read yet. Call set_text.")
        return next(cell for cell in self.reading.column(self.pos) if cell.layer == self.layer)

    def html(self) -> str:
        """The chosen cell and its whole column."""
        if self.reading is None:
            return "<em>Type a text and press Enter.</em>"
        chosen = self.cell()
        lines = "".join(_line(cell, chosen) for cell in self.reading.column(self.pos))
        head = f"<b>{escape(visible(chosen.token))}</b> at layer {chosen.layer}: <b>{_mention(chosen)}</b>"
        return f'<div>{head}</div><table style="border-collapse:collapse">{lines}</table>'


def _line(cell: LensCell, chosen: LensCell) -> str:
    shade = f"background:rgba(37,99,235,{0.6 * cell.confidence:.3f})"
    weight = ";font-weight:600" if cell.layer == chosen.layer else ""
    return (
        f'<tr style="{weight}"><td style="padding:1px 8px">{cell.layer}</td>'
        f'<td style="padding:1px 8px;{shade}">{_mention(cell)}</td><td>perplexity {cell.ppl:.3g}</td></tr>'
    )


def _mention(cell: LensCell) -> str:
    text = escape(printable(cell.mention)) or "∅"
    return f"{text} <i>(a control says the same)</i>" if cell.equals_control else text


def entity_widget(
    model: LanguageModel, vectors: EntityVectors | None = None, options: LensOptions | None = None
) -> Any:
    """A widget of a `LensPanel` (its attribute `panel`). Raises BadInput where ipywidgets is not installed."""
    try:
        import ipywidgets
    except ImportError:
        raise BadInput("the widget needs ipywidgets. Install it: pip install 'autointerp-agent[notebook]'.") from None
    return _Drawn(ipywidgets, LensPanel(model, vectors, options)).box


class _Drawn:
    """The widgets of a panel, and what happens when they change."""

    def __init__(self, widgets: Any, panel: LensPanel) -> None:
        self._widgets, self._panel = widgets, panel
        self._text = widgets.Text(placeholder="text to read", continuous_update=False, description="text")
        self._layer = widgets.Dropdown(options=panel.layers, value=panel.layer, description="layer")
        self._context = widgets.Dropdown(options=list(panel.vectors), value=panel.context, description="context")
        self._tokens = widgets.HBox(layout={"flex_flow": "row wrap"})
        self._out = widgets.HTML(panel.html())
        self._text.observe(self._read, "value")
        self._layer.observe(self._set_layer, "value")
        self._context.observe(self._set_context, "value")
        choices = widgets.HBox([self._layer, self._context])
        self.box = widgets.VBox([self._text, choices, self._tokens, self._out])
        self.box.panel = panel

    def _read(self, change: Any) -> None:
        self._guarded(lambda: self._panel.set_text(self._text.value))
        reading = self._panel.reading
        self._tokens.children = [self._button(n + 1, t) for n, t in enumerate(reading.tokens)] if reading else []

    def _button(self, pos: int, token: str) -> Any:
        button = self._widgets.Button(description=visible(token), layout={"width": "auto"})
        button.on_click(lambda _: self._choose(pos))
        return button

    def _choose(self, pos: int) -> None:
        self._panel.pos = pos
        self._out.value = self._panel.html()

    def _set_layer(self, change: Any) -> None:
        self._panel.layer = self._layer.value
        self._out.value = self._panel.html()

    def _set_context(self, change: Any) -> None:
        self._guarded(lambda: self._panel.set_context(self._context.value))
        self._layer.options = self._panel.layers
        self._layer.value = self._panel.layer

    def _guarded(self, act: Any) -> None:
        """What cannot be read is said in the widget."""
        try:
            act()
        except BadInput as error:
            self._out.value = f"<b>{escape(str(error))}</b>"
            return
        self._out.value = self._panel.html()
