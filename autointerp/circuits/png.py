"""Heat maps as PNG, with nothing but zlib: coloured cells and labels in a font of 3 x 5 dots.

A drawing library would be a dependency for the sake of one picture; the page (`heat_map.page`) has the full labels.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from autointerp.circuits.cells import CellTable
from autointerp.circuits.heat_map import PAPER, Panel, colour, largest_of, panels

CELL, DOT, GAP = 24, 2, 12
Pixels = UInt8[np.ndarray, "height width 3"]
_INK = (40, 40, 40)
# Five rows of three dots a character, each row an octal digit (4 left, 2 middle, 1 right).
_FONT = dict(
    zip(
        "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ+-._/ ",
        "75557 26227 71747 71717 55711 74717 74757 71111 75757 75717 25755 65656 34443 65556 74647 74644 34553 55755 "
        "72227 11152 55655 44447 57755 65555 25552 65644 25563 65655 34216 72222 55557 55552 55775 55255 55222 71247 "
        "02720 00700 00002 00007 11244 00000".split(),
        strict=True,
    )
)


def heat_map_png(table: CellTable) -> bytes:
    """The panels of a table side by side as one PNG."""
    found = panels(table)
    largest = largest_of(found)
    drawn = [_panel(panel, largest) for panel in found]
    height = max(len(one) for one in drawn)
    filled = [np.pad(one, ((0, height - len(one)), (0, GAP), (0, 0)), constant_values=255) for one in drawn]
    return encode(np.pad(np.concatenate(filled, axis=1), ((GAP, GAP), (GAP, 0), (0, 0)), constant_values=255))


def encode(pixels: Pixels) -> bytes:
    """8-bit RGB pixels as a PNG file (W3C PNG specification, filter 0 on every row)."""
    height, width = pixels.shape[:2]
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(rows.tobytes(), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def _panel(panel: Panel, largest: float) -> Pixels:
    left = max(_width(name) for name in panel.rows) + 6
    longest = max(_width(name) for name in panel.columns)
    upright = longest > CELL - 2
    top = 16 + (longest if upright else 10) + 6
    width = max(left + CELL * len(panel.columns), _width(panel.title))
    canvas = np.full((top + CELL * len(panel.rows), width, 3), 255, np.uint8)
    _write(canvas, panel.title, (0, 0))
    for c, name in enumerate(panel.columns):
        x = left + CELL * c
        if upright:
            _place(canvas, np.rot90(_stamp(name)), (top - 4 - _width(name), x + 6))
        else:
            _write(canvas, name, (top - 14, x + (CELL - _width(name)) // 2))
    for r, name in enumerate(panel.rows):
        _write(canvas, name, (top + CELL * r + 7, 0))
        for c in range(len(panel.columns)):
            _fill(canvas, panel, (r, c), (top + CELL * r, left + CELL * c), largest)
    return canvas


def _fill(canvas: Pixels, panel: Panel, at: tuple[int, int], corner: tuple[int, int], largest: float) -> None:
    value, (y, x) = float(panel.values[at]), corner
    box = canvas[y : y + CELL - 1, x : x + CELL - 1]
    if not np.isfinite(value):
        box[:] = PAPER
        diagonal = np.add.outer(np.arange(box.shape[0]), np.arange(box.shape[1])) % 6 == 0
        box[diagonal] = (150, 150, 150)
        return
    box[:] = colour(value, largest)
    if panel.flags[at]:
        box[CELL // 2 - 2 : CELL // 2 + 1, CELL // 2 - 2 : CELL // 2 + 1] = (
            (255, 255, 255) if abs(value) > 0.6 * largest else _INK
        )


def _width(text: str) -> int:
    return 4 * DOT * len(text)


def _stamp(text: str) -> np.ndarray:
    """The text as a mask of dots; what the font lacks is a box."""
    found = np.zeros((5, max(1, 4 * len(text))), dtype=bool)
    for place, character in enumerate(text.upper()):
        for row, digit in enumerate(_FONT.get(character, "75557")):
            for column in range(3):
                found[row, 4 * place + column] = bool(int(digit) >> (2 - column) & 1)
    return found.repeat(DOT, 0).repeat(DOT, 1)


def _write(canvas: Pixels, text: str, corner: tuple[int, int]) -> None:
    _place(canvas, _stamp(text), corner)


def _place(canvas: Pixels, mask: np.ndarray, corner: tuple[int, int]) -> None:
    y, x = max(0, corner[0]), max(0, corner[1])
    part = canvas[y : y + mask.shape[0], x : x + mask.shape[1]]
    part[mask[: part.shape[0], : part.shape[1]]] = _INK


def pngs(tables: Sequence[CellTable]) -> dict[str, bytes]:
    """A picture a table, by its metric."""
    return {str(table.settings.get("metric", "effect")): heat_map_png(table) for table in tables}
