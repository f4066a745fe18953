"""Frames as the model sees them, made in the thread that pushes them."""

from contextlib import ExitStack
from typing import Any

from mossvl.errors import ContextLengthError
from mossvl.live.segments import Picture, StreamTokens
from mossvl.options import MediaOptions
from mossvl.processing.pixels import num_vision_tokens
from mossvl.processing.processor import MossVLProcessor
from mossvl.sources.digests import frame_of


class Pictures:
    """Decodes and resizes a session's frames.

    Args:
        options: how frames are sized.
        most: vision tokens that a session sees at a time.
    """

    def __init__(self, processor: MossVLProcessor, tokens: StreamTokens, options: MediaOptions, most: int) -> None:
        self._processor, self._tokens, self._options, self._most = processor, tokens, options, most

    def make(self, frame: Any, time: float, pushed: float) -> Picture:
        """Return a frame's patches, and the tokens of its time in the stream.

        Args:
            pushed: when it was pushed, by the session's clock.

        Raises:
            ContextLengthError: it is larger than what a session sees.
            MediaError: it is no image that can be used.
        """
        images = self._processor.image_processor
        with ExitStack() as stack:
            (plan,) = images.plan([frame], self._options, self._processor.limits, stack)
            patches, digest = frame_of(plan.source.array, plan, images.layout, self._processor.pixel_scale)
            grid = images.layout.grid(plan.height, plan.width)
        tokens = num_vision_tokens([(1, *grid)], self._tokens.merge)
        if tokens > self._most:
            raise ContextLengthError(
                f"the frame has {tokens} vision tokens, but a session sees {self._most} at a time; give smaller frames",
                setting="LiveOptions.max_pixels",
                advice=", or lower {}",
            )
        return Picture(time, self._tokens.frame(time), grid, patches, digest, pushed)
