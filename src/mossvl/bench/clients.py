"""Streaming clients of a server, for processes of their own."""

import asyncio
import base64
import io
import json
import random
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from mossvl.errors import EngineError

SIDE = 448
"""Side of the images, in pixels, as `SMALL_IMAGE`'s."""


@dataclass(frozen=True)
class Seen:
    """An answer as its client saw it; times in seconds since the clients began."""

    begun: float
    first: float
    ended: float

    def share_before(self, end: float) -> float:
        """The share of the answer's tokens that came before a time, if they came evenly."""
        if self.ended <= end:
            return 1.0
        return max(0.0, end - self.first) / max(self.ended - self.first, 1e-9)


@dataclass(frozen=True)
class Load:
    """Clients that ask one question after the other, each about a new image, for `seconds`."""

    url: str
    seconds: float
    tokens: int
    """Of each answer."""
    begin: float = 0.0
    """When they begin, in seconds of `time.time`."""

    def of(self, seeds: range) -> list[Seen]:
        """Run the clients with these seeds, in this process."""

        async def all_clients() -> list[Seen]:
            await asyncio.sleep(self.begin - time.time())
            seen = await asyncio.gather(*(self._client(random.Random(f"{seed} {self.begin}")) for seed in seeds))
            return [one for some in seen for one in some]

        return asyncio.run(all_clients())

    async def _client(self, chance: random.Random) -> list[Seen]:
        seen = []
        while time.time() < self.begin + self.seconds:
            body = json.dumps(question(chance, self.tokens)).encode()
            begun = time.time()
            first = await self._stream(body)
            seen.append(Seen(*(at - self.begin for at in (begun, first, time.time()))))
        return seen

    async def _stream(self, body: bytes) -> float:
        """Send a request and read its stream to the end; return when the first text came.

        Raises:
            EngineError: the answer is no complete stream.
        """
        where = urlsplit(self.url)
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        try:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {where.netloc}\r\nconnection: close\r\n"
            head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            first, last = 0.0, b""
            while piece := await reader.read(1 << 16):
                # The first event of an answer has no text.
                first = first or (time.time() if (last + piece).count(b"data: {") > 1 else 0.0)
                last = (last + piece)[-2000:]
        finally:
            writer.close()
        if b"data: [DONE]" not in last:
            raise EngineError(f"the server's answer is no complete stream; it ends with {last[-300:]!r}")
        return first


def question(chance: random.Random, tokens: int) -> dict[str, object]:
    """Return a request about an image that nobody has seen before."""
    pixels = np.frombuffer(chance.randbytes(14 * 14 * 3), np.uint8).reshape(14, 14, 3)
    written = io.BytesIO()
    Image.fromarray(pixels).resize((SIDE, SIDE)).save(written, "JPEG")
    url = f"data:image/jpeg;base64,{base64.b64encode(written.getvalue()).decode()}"
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "Describe it."}]
    options = {"stream": True, "max_completion_tokens": tokens, "ignore_eos": True}
    return {"messages": [{"role": "user", "content": parts}], **options}
