"""From a validated request to a query, within the server's limits."""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from mossvl.errors import OptionError, PromptError
from mossvl.media.data_url import after_scheme, is_data_url
from mossvl.media.fetch import is_remote
from mossvl.options import MediaOptions, SamplingParams
from mossvl.options.checks import present
from mossvl.options.media import MAX_PIXELS
from mossvl.options.rendering import Rendering
from mossvl.queries.query import Message, PlainPrompt, Query
from mossvl.server.config import ServerConfig
from mossvl.server.errors import RequestError, check_limit
from mossvl.server.file_parts import medium_of
from mossvl.server.media_options import RENAMED, Defaults, media_defaults, own_over
from mossvl.server.parameters import sampling_of
from mossvl.server.schemas.chat import UNSUPPORTED, ChatMessage, ChatRequest
from mossvl.server.schemas.parts import (
    FilePart,
    FramesPart,
    FramesSource,
    ImagePart,
    ImageSource,
    TextPart,
    VideoPart,
    VideoSource,
)
from mossvl.server.tools import call_keys, texts_of_tools, tool_keys
from mossvl.tools.constraint import constrained
from mossvl.tools.definitions import Tools

SCHEMES = ("http://", "https://", "data:", "file:", "upload:")
BASE64 = re.compile(r"[A-Za-z0-9+/_\-\s]{64,}={0,2}")
"""A file in base64, without a scheme."""
URL = re.compile(f"({'|'.join(SCHEMES)})", re.IGNORECASE)
UPLOAD = "upload:"
"""URL scheme of uploaded files."""
NONE: Defaults = {}
NEWER = {"functions": "send tools", "function_call": "send tool_choice"}
"""What takes the place of keys that are not supported."""
NEUTRAL = {"best_of": 1, "length_penalty": 1}
"""Values of such keys that change nothing, beside those that are empty or false."""
MOST_PARTS = 500_000
"""Most commas and opening brackets of a body, since parsing time depends on them."""


@dataclass(frozen=True)
class Asked:
    """A request as the engine takes it."""

    query: Query | PlainPrompt
    params: SamplingParams

    @property
    def tools(self) -> Tools | None:
        """Functions that the answer may call."""
        return self.query.tools if isinstance(self.query, Query) else None


class Reader:
    """Turns requests into queries, and checks them against the server's limits.

    Args:
        max_frames: frames that the videos of a request share by default.
        file_of: returns the path of an uploaded file, by id.
        knows_tools: the chat template describes functions to the model.
    """

    def __init__(
        self, config: ServerConfig, max_frames: int, file_of: Callable[[str], str], knows_tools: bool = True
    ) -> None:
        self.config, self.max_frames, self.file_of, self.knows_tools = config, max_frames, file_of, knows_tools

    def read(self, request: ChatRequest) -> Asked:
        """Check a request and return its query and parameters.

        Raises:
            InputError: a part of the request cannot be used.
            RequestError: the request exceeds a limit or needs an unsupported feature.
        """
        check_supported(request, UNSUPPORTED)
        query = self.query(request)
        params = sampling_of(request, self.config)
        if query.tools is not None:
            params = constrained(params, query.tools, short=not self.knows_tools)
        return Asked(query, params)

    def query(self, request: ChatRequest) -> Query:
        """Return the query of a request.

        Raises:
            InputError: a part of the request cannot be used.
            RequestError: the request exceeds a limit.
        """
        for message in request.messages:
            if isinstance(message.content, list):
                message.content = [
                    medium_of(part, self.file_of) if isinstance(part, FilePart) else part for part in message.content
                ]
        parts = [part for message in request.messages if isinstance(message.content, list) for part in message.content]
        media = [part for part in parts if not isinstance(part, TextPart)]
        check_limit("number of media", len(media), self.config.max_media, "--max-media", "messages")
        texts = [message.content for message in request.messages if isinstance(message.content, str)]
        texts += [part.text for part in parts if isinstance(part, TextPart)] + texts_of_tools(request)
        check_limit("number of characters", sum(map(len, texts)), self.config.max_text, "--max-text", "messages")
        timeout = min(request.timeout or self.config.timeout, self.config.timeout)
        defaults = media_defaults(request)
        return Query.from_dict(
            {
                "messages": [
                    self._message(message, place, defaults) | call_keys(message, place)
                    for place, message in enumerate(request.messages)
                ],
                **tool_keys(request),
                "media_kwargs": self.shared(media, defaults=defaults),
                "generate_kwargs": {"timeout": timeout},
                **{option.name: getattr(request, option.name) for option in fields(Rendering)},
            }
        )

    def medium(
        self, part: ImagePart | VideoPart | FramesPart, place: str = "messages", defaults: Defaults = NONE
    ) -> dict[str, Any]:
        """Return a medium as a content part of our messages.

        Args:
            place: of the medium in the request, from the field on.
            defaults: options of media without their own.

        Raises:
            PromptError: the URL is invalid.
            RequestError: the medium exceeds a limit, or an option is out of range.
        """
        field = place.partition(".")[0]
        if isinstance(part, ImagePart):
            found: dict[str, Any] = {"type": "image", "image": self._place(part.image_url.url)}
        elif isinstance(part, VideoPart):
            source = self._place(part.video_url.url)
            segments = part.video_url.segments
            found = {"type": "video", "video": {"video_path": source, "segments": segments} if segments else source}
        else:
            given = part.video_frames
            check_limit("number of frames", len(given.frames), self.config.max_frames, "--max-frames", field)
            found = {"type": "video", "video": [(one.timestamp, self._place(one.url)) for one in given.frames]}
        own = options_of(part, defaults)
        check_options_of(own, f"{place}.{part.type}")
        for name in ("min_pixels", "max_pixels"):
            check_limit(name, own.get(name, 0), self.config.max_pixels or MAX_PIXELS, "--max-pixels", field)
        return found | own

    def shared(self, media: list[Any], place: str = "messages", defaults: Defaults = NONE) -> dict[str, Any]:
        """Return the media options that the videos of a prompt share, within the limits.

        Args:
            place, defaults: as for `medium`.

        Raises:
            RequestError: the videos' own `max_frames` exceed the limit.
        """
        own = [most for part in media if (most := _most_frames(part, defaults))]
        check_limit("max_frames of all videos", sum(own), self.config.max_frames, "--max-frames", place)
        return {"max_frames": max(1, min(self.max_frames, self.config.max_frames - sum(own)))}

    def _message(self, message: ChatMessage, place: int, defaults: Defaults) -> Message:
        check_content(message, f"messages.{place}.content")
        role = "system" if message.role == "developer" else message.role
        if message.content is None or isinstance(message.content, str):
            return {"role": role, "content": message.content or ""}
        return {
            "role": role,
            "content": [
                {"type": "text", "text": part.text}
                if isinstance(part, TextPart)
                else self.medium(part, f"messages.{place}.content.{number}", defaults)
                for number, part in enumerate(message.content)
                if not isinstance(part, FilePart)  # There are none any more.
            ],
        }

    def _place(self, url: str) -> str:
        """Return a normalised URL, or the path of an uploaded file.

        Raises:
            PromptError: the URL's scheme is unknown.
        """
        if is_data_url(url):
            return f"data:{after_scheme(url)}"
        if BASE64.fullmatch(url.strip()):
            return f"data:;base64,{url}"
        found = URL.match(url)
        if found is None:
            raise PromptError(
                f"{url!r:.80} is no URL of a known scheme; expected {', '.join(SCHEMES)}, such as "
                "data:image/png;base64,… or upload:ID of an uploaded file"
            )
        url = found[1].lower() + url[found.end(1) :]
        if re.match("file:/(?!/)", url):
            url = f"file://{url[5:]}"
        return self.file_of(url.removeprefix(UPLOAD)) if url.startswith(UPLOAD) else url


def placed(path: str, folders: Iterable[str]) -> str:
    """A relative path below the first of the allowed folders that has the file; anything else as it is given."""
    if is_remote(path) or URL.match(path) or "\0" in path:
        return path
    for folder in map(os.path.realpath, folders):
        file = os.path.realpath(os.path.join(folder, path))
        if Path(file).is_relative_to(folder) and os.path.isfile(file):
            return file
    return path


def options_of(part: ImagePart | VideoPart | FramesPart, defaults: Defaults) -> dict[str, Any]:
    """Return the media options of a part by our names."""
    given: ImageSource | VideoSource | FramesSource
    if isinstance(part, ImagePart):
        kind, given = "image", part.image_url
    else:
        kind, given = "video", part.video_url if isinstance(part, VideoPart) else part.video_frames
    own = {name: getattr(given, RENAMED.get(name, name)) for name in MediaOptions.OF_PARTS[kind]}
    return own_over(defaults, kind, present(own))


def check_content(message: ChatMessage, place: str) -> None:
    """Refuse a message that says nothing, which the model would answer nonetheless; an empty text is a content.

    Raises:
        RequestError: the message of a role other than the assistant's has no content, or the user's no part.
    """
    missing = message.role != "assistant" and message.content is None
    if missing or (message.role == "user" and message.content == []):
        what = f"{place}: a message of the role {message.role!r} needs a content: a text, which may be empty, or parts"
        raise RequestError(400, "invalid_request", what, place)


def check_options_of(own: Mapping[str, Any], place: str) -> None:
    """Check a medium's options together.

    Args:
        place: of the options in the request.

    Raises:
        RequestError: one is out of range, or a minimum is above its maximum; `param` names the option.
    """
    try:
        MediaOptions(**own)
    except OptionError as error:
        named = error.named(RENAMED)
        field = f"{place}.{named.option}"
        raise RequestError(400, "invalid_option", f"{field}: {named}", field) from error


def _most_frames(part: ImagePart | VideoPart | FramesPart, defaults: Defaults) -> int:
    """Return the frames that a part reserves for itself, at least one for each segment."""
    segments = part.video_url.segments if isinstance(part, VideoPart) else None
    return max(options_of(part, defaults).get("max_frames", 0), len(segments or ()))


def check_supported(request: BaseModel, unsupported: Iterable[str]) -> None:
    """Refuse fields that are not supported.

    Raises:
        RequestError: one is neither empty nor false nor what it would be without it.
    """
    for name in unsupported:
        given = getattr(request, name)
        neutral = given is not True and name in NEUTRAL and given == NEUTRAL[name]
        if not neutral and given is not False and given not in (None, "none", "auto", "", [], {}):
            raise RequestError(400, "unsupported", f"{name} is not supported; {NEWER.get(name, 'leave it out')}", name)


def check_size(body: bytes) -> None:
    """Refuse a body that would be slow to parse.

    Raises:
        RequestError: the body has more than `MOST_PARTS` commas and brackets.
    """
    if sum(map(body.count, (b",", b"[", b"{"))) > MOST_PARTS:
        message = f"the request has more than {MOST_PARTS} commas and brackets; send less at once"
        raise RequestError(400, "invalid_request", message)
