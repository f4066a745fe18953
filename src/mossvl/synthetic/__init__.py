"""A procedural world: pictures and clips of shapes, and questions about them, drawn on a CPU or a GPU.

The way of the data: `scene` describes what there is and when; `world` and `events` do so at random, and `pictures`,
`clips`, `several` and `conversations` ask about it, all listed in `tasks`. `shapes` and `glyphs` say what inside and
outside are, `render` makes pixels of it, and `files` writes those as real PNG and MP4 files.
"""

from mossvl.synthetic.files import write_clip, write_picture
from mossvl.synthetic.render import render
from mossvl.synthetic.scene import BACKGROUNDS, COLOURS, SIZES, TEXTURES, Background, Clip, Scene, Thing, Track
from mossvl.synthetic.shapes import KINDS

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "KINDS",
    "SIZES",
    "TEXTURES",
    "Background",
    "Clip",
    "Scene",
    "Thing",
    "Track",
    "render",
    "write_clip",
    "write_picture",
]
