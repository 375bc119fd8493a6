"""Prose kinds of the demo corpus: news, stories, two-person sentences, dialogue, quotations, repetition."""

from __future__ import annotations

from collections.abc import Callable

from autointerp.demo.grammar import Scene, polish
from autointerp.demo.pairs import pair_sentence
from autointerp.demo.people import FIRST_NAMES

_BRACKETS = (("(", ")"), ("[", "]"), ("{", "}"), ('"', '"'), ("\u201c", "\u201d"), ("<", ">"))


def news(scene: Scene) -> str:
    """Headline, dateline, sentences about fictional firms, towns and persons."""
    rng = scene.rng
    town = scene.symbol("town")
    head = scene.sentence("HEADLINE")
    body = scene.passage(rng.randrange(4, 13), "NEWS")
    return f"{head}\n\n{town}, {scene.expand('{month} {day}')} - {body}"


def story(scene: Scene) -> str:
    """Narrative sentences with two-person sentences among them, in one to three paragraphs."""
    rng = scene.rng
    paragraphs = [
        " ".join(pair_sentence(scene) if rng.random() < 0.35 else scene.sentence() for _ in range(rng.randrange(3, 6)))
        for _ in range(rng.randrange(1, 5))
    ]
    return "\n\n".join(paragraphs)


def pairs(scene: Scene) -> str:
    """Two-person sentences, each with a pair of its own."""
    return " ".join(pair_sentence(scene) for _ in range(scene.rng.randrange(3, 13)))


def dialogue(scene: Scene) -> str:
    """A play: two or three speakers, who now and then say again what was said."""
    rng = scene.rng
    speakers = rng.sample(FIRST_NAMES, rng.randrange(2, 4))
    lines: list[str] = []
    said: list[str] = []
    for turn in range(rng.randrange(6, 18)):
        if said and rng.random() < 0.2:
            words = f'You said "{rng.choice(said)}" {scene.sentence("SPEECH")}'
        else:
            words = scene.sentence("SPEECH")
            said.append(words)
        lines.append(f"{speakers[turn % len(speakers)]}: {words}")
    return "\n".join(lines)


def _nested(scene: Scene, depth: int) -> str:
    """Text in brackets or quotation marks that may hold more of the same."""
    opening, closing = scene.rng.choice(_BRACKETS)
    inner = scene.symbol("DETAIL")
    for _ in range(scene.rng.randrange(3)):
        if depth > 0 and scene.rng.random() < 0.6:
            inner += f" {_nested(scene, depth - 1)} {scene.symbol('DETAIL')}"
        else:
            inner += f", {scene.symbol('DETAIL')}"
    return opening + inner + closing


def brackets(scene: Scene) -> str:
    """Sentences with nested brackets and quotation marks of several kinds."""
    return " ".join(
        polish(f"{scene.symbol('CLAUSE')} {_nested(scene, 2)}, {scene.symbol('FACT')}.")
        for _ in range(scene.rng.randrange(3, 8))
    )


def quotations(scene: Scene) -> str:
    """A text, then remarks that quote pieces of it word for word."""
    rng = scene.rng
    source = [scene.sentence() for _ in range(rng.randrange(3, 7))]
    remarks = []
    for _ in range(rng.randrange(3, 8)):
        words = rng.choice(source).rstrip(".!").split(" ")
        start = rng.randrange(max(1, len(words) - 4))
        piece = " ".join(words[start : start + rng.randrange(4, 16)])
        remark = polish(f'{scene.symbol("WHO")} {scene.symbol("said")}: "{piece}".')
        remarks.append(f"{remark} {scene.sentence()}" if rng.random() < 0.5 else remark)
    return " ".join(source) + "\n\n" + " ".join(remarks)


def repeated(scene: Scene) -> str:
    """A passage, other text, and the same passage again, once or twice."""
    rng = scene.rng
    passage = scene.passage(rng.randrange(2, 5))
    parts = [passage]
    for _ in range(rng.randrange(1, 3)):
        between = scene.passage(rng.randrange(0, 3))
        parts += [between, passage] if between else [passage]
    return "\n\n".join(parts)


def song(scene: Scene) -> str:
    """Verses with a refrain that returns after each of them."""
    rng = scene.rng
    refrain = "\n".join(polish(scene.symbol("LINE")) for _ in range(rng.randrange(2, 4)))
    verses = [
        "\n".join(polish(scene.symbol("LINE")) for _ in range(rng.randrange(2, 5))) for _ in range(rng.randrange(2, 4))
    ]
    return "\n\n".join(f"{verse}\n\n{refrain}" for verse in verses)


def letter(scene: Scene) -> str:
    """A letter to a first name."""
    name = scene.first_name()
    body = scene.passage(scene.rng.randrange(2, 5)) + " " + scene.passage(scene.rng.randrange(1, 4), "SPEECH")
    return f"Dear {name},\n\n{body}\n\nYours {scene.symbol('adv')}, {scene.first_name()}"


PROSE: dict[str, tuple[int, Callable[[Scene], str]]] = {
    "news": (16, news),
    "story": (12, story),
    "pairs": (20, pairs),
    "dialogue": (9, dialogue),
    "brackets": (6, brackets),
    "quotations": (6, quotations),
    "repeated": (10, repeated),
    "song": (4, song),
    "letter": (4, letter),
}
"""Kind -> (weight in the stream, writer)."""
