"""Where the frames of a live session come from: files, cameras, the screen, folders, iterators."""

from mossvl.live.sources.camera import Camera
from mossvl.live.sources.folder import Folder
from mossvl.live.sources.frames import Frames
from mossvl.live.sources.playback import Playback
from mossvl.live.sources.screen import Screen
from mossvl.live.sources.source import Found, FrameSource, Lost, Skipped, SourceClock, SourceEvent

__all__ = [
    "Camera",
    "Folder",
    "Found",
    "FrameSource",
    "Frames",
    "Lost",
    "Playback",
    "Screen",
    "Skipped",
    "SourceClock",
    "SourceEvent",
]
