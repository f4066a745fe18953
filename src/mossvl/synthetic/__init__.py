"""A procedural world: pictures and clips of shapes, and questions about them, drawn on a CPU or a GPU.

`scene` describes pictures and clips; `world` and `events` generate random ones, in one of the `editions`; `pictures`,
`clips`, `several` and `conversations` ask questions, in the words of `wordings.toml`, `doubts`, `unknown` and `schemas`
further ones; `tasks` lists all tasks. `streaming` draws live streams, and `live_records` makes records, files and
frames of them. `shapes`, `glyphs` and `lettering` define outlines, `drawing` makes tensors of scenes, `render` draws
pixels, and `files` writes PNG and MP4 files.
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
