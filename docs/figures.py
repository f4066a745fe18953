"""Draws the figures of docs/explanation/xrope.md, from what the package computes of a small prompt.

./run python docs/figures.py
"""

from pathlib import Path
from xml.sax.saxutils import escape

import torch

from mossvl.model.configuration import MossVLTextConfig
from mossvl.model.xrope import TextLayout, rotary, text_layout

FOLDER = Path(__file__).parent / "explanation"
WORDS = ["Look", "at", "0.0 s", "IMAGE", "and", "1.0 s", "IMAGE", "what", "moves", "?"]
FRAMES = [(3, 4), (3, 4)]
"""Merged rows and columns of each frame."""
TEXT, IMAGE, VISION, SEPARATOR = "#6b7280", "#c2410c", "#2563eb", "#93c5fd"
AXES = {"time": "#0f766e", "height": "#b45309", "width": "#6d28d9"}


def drawing(name: str, title: str, width: float, height: float, parts: list[str]) -> None:
    """Write an SVG of parts on white."""
    size = f'width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}"'
    font = 'font-family="sans-serif" font-size="11" fill="#111827"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font}>\n<title>{escape(title)}</title>'
    ground = f'<rect width="{width:g}" height="{height:g}" fill="white"/>'
    (FOLDER / name).write_text("\n".join([head, ground, *parts, "</svg>"]) + "\n")


def box(x: float, y: float, side: float, colour: str) -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{side:g}" height="{side:g}" rx="2" fill="{colour}"/>'


def word(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(text)}</text>'


def key(entries: list[tuple[str, str]], x: float, y: float) -> list[str]:
    parts = []
    for place, (colour, text) in enumerate(entries):
        parts += [box(x, y + 20 * place, 12, colour), word(x + 18, y + 20 * place + 10, text)]
    return parts


def positions(layout: TextLayout) -> None:
    """Tokens at their height (downwards) and width (to the right): texts on the diagonal, frames beside it."""
    cell, edge = 20, 40
    count = layout.next_position
    parts = [
        word(edge, 16, "width →"),
        f'<g transform="translate(14 {edge + 46}) rotate(90)">{word(-40, 0, "height →")}</g>',
    ]
    for number in range(count):
        at = edge + cell * number
        parts.append(word(at + 9, edge - 6, str(number), "middle"))
        parts.append(word(edge - 6, at + 13, str(number), "end"))
        parts.append(f'<rect x="{at}" y="{at}" width="{cell}" height="{cell}" fill="#f3f4f6"/>')
    for (_, height, width), separator in zip(layout.vision().T.tolist(), is_separator(layout), strict=True):
        parts.append(box(edge + cell * width + 1, edge + cell * height + 1, 18, SEPARATOR if separator else VISION))
    for place, text in zip(layout.text.tolist(), WORDS, strict=True):
        image = text == "IMAGE"
        side = 10 if image else 18
        shift = 5 if image else 1
        parts.append(box(edge + cell * place + shift, edge + cell * place + shift, side, IMAGE if image else TEXT))
        parts.append(word(edge + cell * (place + 1) + 6, edge + cell * place + 14, text))
    told = [
        (TEXT, "text token: time = height = width"),
        (VISION, "vision token: time where its frame begins"),
        (SEPARATOR, "separator after a frame"),
        (IMAGE, "image token, at the separator's place"),
    ]
    parts += key(told, edge + 10 * cell, edge + 8)
    drawing(
        "positions.svg",
        "Rotary positions of a prompt with two frames",
        edge + cell * count + 120,
        edge + cell * count + 12,
        parts,
    )


def is_separator(layout: TextLayout) -> list[bool]:
    ends = set((layout.frame_ends - 1).tolist())
    return [number in ends for number in range(int(layout.frame_ends[-1]))]


def visibility(layout: TextLayout) -> None:
    """Which vision tokens each text token sees."""
    cell, left, top = 18, 70, 34
    ends = [0, *layout.frame_ends.tolist()]
    separators = is_separator(layout)
    parts = [word(left, 14, "vision sequence: frame 1, frame 2 →")]
    for row, (text, frames) in enumerate(zip(WORDS, layout.visible_frames.tolist(), strict=True)):
        parts.append(word(left - 8, top + cell * row + 13, text, "end"))
        for column, separator in enumerate(separators):
            seen = column < ends[frames]
            colour = (SEPARATOR if separator else VISION) if seen else "#f3f4f6"
            parts.append(box(left + cell * column + 1, top + cell * row + 1, cell - 2, colour))
    width, height = left + cell * len(separators) + 12, top + cell * len(WORDS) + 12
    drawing("visibility.svg", "What each token of the text sees of the frames", width, height, parts)


def frequencies() -> None:
    """Which axis turns each frequency of a head."""
    config = MossVLTextConfig()
    half = config.head_dim // 2
    _, sin = rotary(config, torch.eye(3, dtype=torch.long), torch.float64)
    turned = sin[:, :half].abs().argmax(0).tolist()  # A step along one axis turns its frequencies alone.
    cell, left, top = 11, 12, 30
    parts = [word(left, 18, "frequency 0 (fast)"), word(left + cell * half, 18, f"{half - 1} (slow)", "end")]
    for number, axis in enumerate(turned):
        colour = list(AXES.values())[axis]
        parts.append(f'<rect x="{left + cell * number}" y="{top}" width="{cell - 1}" height="26" fill="{colour}"/>')
    counts = {name: turned.count(number) for number, name in enumerate(AXES)}
    for place, (name, colour) in enumerate(AXES.items()):
        parts += key([(colour, f"{name}: {counts[name]}")], left + 110 * place, top + 38)
    drawing("frequencies.svg", "The axis that turns each frequency", 2 * left + cell * half, top + 62, parts)


def main() -> None:
    layout = text_layout(torch.tensor([text == "IMAGE" for text in WORDS]), torch.tensor(FRAMES))
    positions(layout)
    visibility(layout)
    frequencies()


if __name__ == "__main__":
    main()
