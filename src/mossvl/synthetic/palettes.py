"""Names of colours, and the sRGB that each palette gives them."""

Colour = tuple[int, int, int]
"""sRGB, 0 to 255."""
_NAMES = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
_HEXADECIMAL = {
    "mossvl": "d62728 f58c1e f0d732 289b4b 235fc8 8246aa f08cbe 784b2d 19191e fafafa",
    "css": "ff0000 ffa500 ffff00 008000 0000ff 800080 ffc0cb a52a2a 000000 ffffff",
    "paint": "ed1c24 ff7f27 fff200 22b14c 3f48cc a349a4 ffaec9 b97a57 000000 ffffff",
    "web": "dc143c ff8c00 ffd700 228b22 1e90ff 9400d3 ff69b4 8b4513 000000 f5f5f5",
    "pure": "ff0000 ff8000 ffff00 00ff00 0000ff 8000ff ff80c0 804000 000000 ffffff",
    "material": "f44336 ff9800 ffeb3b 4caf50 2196f3 9c27b0 f48fb1 795548 212121 fafafa",
    "office": "c00000 ed7d31 ffff00 00b050 0070c0 7030a0 ff99cc 843c0c 000000 ffffff",
    "dark": "a01818 d9691e d4b106 145a32 1a237e 4a148c d6609a 5d3a1a 101010 eeeeee",
    "light": "ff5050 ffb347 fff176 5fd35f 5c9dff b57edc ffb6d5 a9744f 303030 ffffff",
}
PALETTES: dict[str, dict[str, Colour]] = {
    palette: {name: tuple(bytes.fromhex(value)) for name, value in zip(_NAMES, values.split(), strict=True)}  # type: ignore[misc]
    for palette, values in _HEXADECIMAL.items()
}
"""mossvl-tiny's own colours, those of CSS, Microsoft Paint, Material Design and others."""
COLOURS = PALETTES["mossvl"]
