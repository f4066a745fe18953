"""Requests for previews of media."""

from pydantic import Field

from mossvl.server.schemas.parts import MediumPart, Part


class FramesRequest(Part):
    """A request for a preview of a medium."""

    part: MediumPart
    thumbnails: int = Field(0, ge=0, le=512, description="Longest side of thumbnails, in pixels; 0 for none.")
