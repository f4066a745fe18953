"""What clients of a soak (soak.py) send, and how: innocent requests, whose answers depend on nothing but themselves."""

import asyncio
import base64
import io
import json
import struct
import zlib
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any
from urllib.parse import urlsplit

import av
import httpx
import numpy as np
from PIL import Image
from serving import EXAMPLES, part

Body = dict[str, Any]
CLIP, SIGN = (EXAMPLES / "clip.mp4").read_bytes(), (EXAMPLES / "sign.png").read_bytes()
NEVER = 1e9
CHAT, FILES, FRAMES = "/v1/chat/completions", "/v1/files", "/v1/media/frames"


def asking(question: str, *media: Body, **options: Any) -> Body:
    return {"messages": [{"role": "user", "content": [*media, {"type": "text", "text": question}]}], **options}


def at(url: str, kind: str = "image_url", **options: Any) -> Body:
    return {"type": kind, kind: {"url": url, **options}}


async def answered(http: httpx.AsyncClient, body: Body | bytes, path: str = CHAT, leaving: float = NEVER) -> Any:
    """How a request ended ("200", "400 invalid_media", or "200 timeout" of a stream), and its answers: text and reason.

    Args:
        leaving: seconds after which the client goes away; the request has then ended by "left".
    """
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    texts: dict[int, str] = {}
    reasons: dict[int, str] = {}
    with suppress(TimeoutError):
        async with asyncio.timeout(leaving), http.stream("POST", path, content=content) as response:
            if "event-stream" not in response.headers.get("content-type", ""):
                whole = await response.aread()
                if response.status_code != 200 or path != CHAT:
                    return outcome(response.status_code, whole), []
                choices = json.loads(whole)["choices"]
                return "200", [(one["message"]["content"], one["finish_reason"]) for one in choices]
            async for line in response.aiter_lines():
                if line == "data: [DONE]":
                    return "200", [(texts[index], reasons[index]) for index in sorted(texts)]
                piece = json.loads(line[6:]) if line.startswith("data: ") else {}
                if "error" in piece:
                    return f"200 {piece['error']['code']}", []
                for choice in piece.get("choices", ()):
                    index = choice["index"]
                    texts[index] = texts.get(index, "") + (choice["delta"].get("content") or "")
                    reasons[index] = choice["finish_reason"] or ""
            return "200 cut off", []
    return "left", []


def outcome(status: int, content: bytes) -> str:
    """A status, and the code of the error that came with it."""
    with suppress(ValueError, KeyError, TypeError):
        return f"{status} {json.loads(content)['error']['code']}"
    return str(status)


# --- innocent requests -----------------------------------------------------------------------------------------------

THING = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "blue"]}, "count": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["colour", "count"],
    "additionalProperties": False,
}
KNOWN = {"clip": "2.0 seconds", "picture": "MOSS", "shapes": "At the top left.", "conversation": "right"}
"""What some of them must be answered, whoever asks."""


def innocents(upload: str) -> dict[str, Body]:
    """Requests by name.

    Args:
        upload: the id of the clip, which was uploaded.
    """
    clip, sign = part("clip.mp4"), part("sign.png")
    frames = [{"timestamp": time, "url": sign["image_url"]["url"]} for time in (0, 1.5, 4)]
    schema = {"type": "json_schema", "json_schema": {"name": "thing", "schema": THING}}
    emoji = {"type": "regex", "pattern": "\N{GRINNING FACE}" * 2}
    long, drawn = {"ignore_eos": True, "max_tokens": 100}, {"temperature": 1.5, "seed": 7}
    first = asking("When does the blue star appear?", clip)
    said = [*first["messages"], {"role": "assistant", "content": "2.0 seconds"}]
    then = asking("Which way does the red circle move?", at(f"upload:{upload}", "video_url"), stream=True)
    return {
        "clip": first,
        "picture": asking("What is written there?", sign),
        "shapes": asking("Where is the green pentagon?", part("shapes.png"), stream=True),
        "uploaded clip": then,
        "conversation": {"messages": said + asking("Which way does the red circle move?")["messages"]},
        "clip in many frames": asking("Describe the clip.", at(clip["video_url"]["url"], "video_url", fps=8)),
        "frames": asking("What is written there?", {"type": "video_frames", "video_frames": {"frames": frames}}),
        "text": asking("Describe it in many words.", **long),
        "text, drawn thrice": asking("Describe it in many words.", n=3, **long, **drawn),
        "text, penalised": asking("Say yes.", stream=True, repetition_penalty=1.2, top_k=40, **long, **drawn),
        "log-probabilities": asking("Describe the clip.", clip, logprobs=True, top_logprobs=20, stream=True, **drawn),
        "JSON": asking("Which colour is the star?", clip, response_format=schema),
        "JSON, drawn": asking("Say it.", response_format=schema, stream=True, n=2, **drawn),
        "half a character": asking("Say it.", response_format=emoji, max_tokens=6, stream=True),
    }


# --- contents ----------------------------------------------------------------------------------------------------


def data_url(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def picture(side: int) -> bytes:
    """A picture of side² pixels that nobody has seen before, as JPEG."""
    noise = np.random.default_rng().integers(0, 256, (side // 64, side // 64, 3), np.uint8)
    written = io.BytesIO()
    Image.fromarray(noise).resize((side, side)).save(written, "JPEG")
    return written.getvalue()


def black(side: int) -> bytes:
    written = io.BytesIO()
    Image.new("1", (side, side)).save(written, "PNG")
    return written.getvalue()


def tiff() -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (64, 64)).save(written, "TIFF", compression="jpeg")
    return written.getvalue()


def bomb(side: int) -> bytes:
    """A PNG of few bytes that claims to be a picture of side² pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))


def nested(levels: int) -> bytes:
    body = asking("Say it.", response_format={"type": "json_schema", "json_schema": {"schema": "HERE"}})
    return json.dumps(body).replace('"HERE"', '{"items":' * levels + "{}" + "}" * levels).encode()


def clip(width: int, height: int, seconds: Iterable[int]) -> bytes:
    """A grey video with a frame at each of these times, as MP4."""
    written = io.BytesIO()
    with av.open(written, "w", format="mp4") as out:
        stream = out.add_stream("mpeg4", rate=1)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for second in seconds:
            frame = av.VideoFrame.from_ndarray(np.full((height * 3 // 2, width), 128, np.uint8), format="yuv420p")
            frame.pts, frame.time_base = second, Fraction(1, 1)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return written.getvalue()


# --- ways to send hostile requests ----------------------------------------------------------------------------------


@dataclass
class Target:
    """A server that is attacked."""

    url: str
    pid: int

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, timeout=120)


Send = Callable[[Target], Awaitable[str]]
"""Sends a request and says how it ended."""


def posting(body: Body | bytes, path: str = CHAT, leaving: float = NEVER) -> Send:
    async def send(target: Target) -> str:
        async with target.client() as http:
            return (await answered(http, body, path, leaving))[0]

    return send


def say(**options: Any) -> Send:
    return posting(asking("Say it.", **{"max_tokens": 20, "temperature": 1.0, "seed": 1, **options}))


def formed(kind: str, form: Any, leaving: float = NEVER, **options: Any) -> Send:
    key, given = ("pattern", form) if kind == "regex" else ("json_schema", {"schema": form})
    body = asking("Say it.", response_format={"type": kind, key: given}, max_tokens=50, **options)
    return posting(body, leaving=leaving)


def shown(content: bytes | str, kind: str = "image_url", **options: Any) -> Send:
    url = content if isinstance(content, str) else data_url(content)
    return posting(asking("What?", at(url, kind, **options), max_tokens=5))


def large(side: int, leaving: float = NEVER, previewed: bool = False, timeout: float = 120, **options: Any) -> Send:
    """A picture of side² pixels that nobody has seen before."""

    async def send(target: Target) -> str:
        part = at(data_url(await asyncio.to_thread(picture, side)), **options)
        if previewed:
            return await posting({"part": part, "thumbnails": 512}, FRAMES)(target)
        return await posting(asking("What?", part, max_tokens=5, timeout=timeout), leaving=leaving)(target)

    return send


def raw(head: bytes, body: bytes = b"", leaves: bool = False) -> Send:
    """Bytes as they are, after which the client `leaves`, or reads until the server closes the connection."""

    async def send(target: Target) -> str:
        place = urlsplit(target.url)
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        try:
            writer.write(head + b"\r\nhost: localhost\r\nconnection: close\r\n\r\n" + body)
            await writer.drain()
            if leaves:
                await asyncio.sleep(0.2)
                return "left"
            first, _, rest = (await reader.read()).partition(b"\r\n")
        except ConnectionError:
            return "closed"
        finally:
            writer.close()
        if not first:
            return "closed"
        return outcome(int(first.split()[1]), rest.partition(b"\r\n\r\n")[2])

    return send


def form(*parts: bytes, end: bytes = b"--x--\r\n", leaves: bool = False) -> Send:
    """An upload."""
    body = b"".join(b"--x\r\ncontent-disposition: form-data; " + part + b"\r\n" for part in parts) + end
    length = len(body) + 1000 * leaves
    head = b"POST %b HTTP/1.1\r\ncontent-type: multipart/form-data; boundary=x\r\ncontent-length: %d"
    return raw(head % (FILES.encode(), length), body, leaves)
