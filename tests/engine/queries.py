"""Queries for the golden checkpoint, and whether an engine that was asked them has given everything back."""

import threading
import time

from golden_cases import MEDIA

SHAPES, CLIP = str(MEDIA / "shapes.png"), str(MEDIA / "clip_40s.mp4")
GOOD = {"prompt": "yes", "images": [SHAPES], "generate_kwargs": {"max_new_tokens": 8}}
LONG = {"prompt": "yes", "videos": [CLIP], "generate_kwargs": {"max_new_tokens": 100_000, "ignore_eos": True}}


def settled(llm, seconds=20.0):
    """Close the engine, wait until no thread loads media; then whether everything was given back."""
    llm.close()
    deadline = time.monotonic() + seconds
    while media_threads() and time.monotonic() < deadline:
        time.sleep(0.02)
    engine = llm.engine
    engine.cache.clear()
    everything = engine.cache.num_free == engine.cache.num_pages and engine.media_budget.used == 0 and not engine.active
    return everything and not media_threads() and engine._thread is None


def media_threads():
    return [thread for thread in threading.enumerate() if thread.name == "mossvl-media"]
