"""What queries have in common that one replica should take: what its caches then have."""

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from mossvl.options import SamplingParams
from mossvl.processing.messages import Message, media_of, texts_of
from mossvl.processing.plan import source_of, video_segments

CHARACTERS_PER_TOKEN = 4
IMAGE_TOKENS, VIDEO_TOKENS = 1024, 8192
"""Rough sizes of media that have not been opened."""


def key_of(messages: Sequence[Message], lora: str | None = None) -> bytes:
    """Return the key of a conversation: its first medium, or without media its adapter and what it begins with.

    What one adapter has computed of texts, no other one reuses; pixels, and mostly vision tokens, all of them do.

    Args:
        messages: checked ones.
        lora: the adapter's name.

    Raises:
        InputError: a video is malformed.
    """
    images, videos = media_of(messages)
    media = [*map(source_of, images[:1]), *(video_segments(video)[0] for video in videos[:1])]
    return _digest(_name_of(media[0]) if media else [repr(lora).encode(), *_beginning(messages)])


def size_of(messages: Sequence[Message], params: SamplingParams) -> int:
    """Estimate the tokens of a query, of its prompt and answers together."""
    images, videos = media_of(messages)
    characters = sum(map(len, texts_of(messages)))
    media = IMAGE_TOKENS * len(images) + VIDEO_TOKENS * len(videos)
    return characters // CHARACTERS_PER_TOKEN + media + params.n * params.max_new_tokens


def _name_of(medium: Any) -> Iterable[bytes]:
    """Return what a medium is known by: its name, its bytes if it is encoded, or else which object it is."""
    if isinstance(medium, str | Path):
        return [str(medium).encode(errors="surrogatepass")]
    if isinstance(medium, bytes | bytearray | memoryview):
        return [bytes(medium)]
    if isinstance(medium, list | tuple) and medium:
        return _name_of(medium[0])
    return [str(id(medium)).encode()]


def _beginning(messages: Sequence[Message]) -> Iterable[bytes]:
    """Return the texts up to the end of the first user's turn."""
    ends = [number for number, message in enumerate(messages, 1) if message["role"] == "user"]
    return (text.encode(errors="surrogatepass") for text in texts_of(messages[: ends[0] if ends else None]))


def _digest(parts: Iterable[bytes]) -> bytes:
    digest = blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.digest()
