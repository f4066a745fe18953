"""Live sessions over the network: how long a server takes to decide about a frame, on one GPU or over replicas.

    mossvl serve --data-parallel-size 2 --live-sessions 64 …
    python benchmarks/sessions.py http://127.0.0.1:8000 --sessions 64 --seconds 20 [--model NAME]

Each session speaks `WS /v1/video/realtime`, and is pushed a frame of 512 × 288 a second, beginning at a moment of its
own. A frame's time runs from sending its announcement until `input.frame.processed`; those of the first `--warm-up`
seconds are left out.
"""

import argparse
import asyncio
import io
import json
import random
import time
from dataclasses import dataclass, field
from statistics import fmean, quantiles
from typing import Any

import numpy as np
from PIL import Image
from websockets.asyncio.client import ClientConnection, connect

HEIGHT, WIDTH = 288, 512


@dataclass
class Session:
    """A session, its frames' times and what it was told."""

    number: int
    begun: dict[int, float] = field(default_factory=dict)
    lags: list[float] = field(default_factory=list)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    configured: asyncio.Event = field(default_factory=asyncio.Event)
    rejected: int = 0
    tokens: int = 0
    ended: str = ""

    async def listen(self, socket: ClientConnection, since: float) -> None:
        async for text in socket:
            now, message = time.monotonic(), json.loads(text)
            match message["type"]:
                case "session.ready":
                    self.configured.set()
                case "input.frame.ready":
                    self.ready.set()
                case "input.frame.processed" if now >= since:
                    self.lags.append(now - self.begun[message["seq_no"]])
                case "input.frame.rejected":
                    self.rejected += 1
                    self.ready.set()
                case "session.done":
                    self.tokens, self.ended = message["usage"]["text_output_tokens"], message["reason"]
                case "error":
                    self.ended = str(message)

    async def watch(self, url: str, given: argparse.Namespace) -> None:
        begin = time.monotonic()
        async with connect(url, max_size=None) as socket:
            listening = asyncio.create_task(self.listen(socket, begin + given.warm_up))
            settings: dict[str, Any] = {"prompt": "Say what happens.", "max_tokens_per_turn": given.rate}
            await socket.send(json.dumps({"type": "session.configure", **settings}))
            await asyncio.wait_for(self.configured.wait(), 60)
            pictures = [jpeg(self.number, one) for one in range(4)]
            start = time.monotonic() + random.Random(self.number).random()
            for number in range(int(given.seconds + given.warm_up)):
                await asyncio.sleep(max(0.0, start + number - time.monotonic()))
                await self.push(socket, number, pictures[number % len(pictures)])
            await asyncio.sleep(1)
            await socket.send(json.dumps({"type": "session.abort"}))
            await asyncio.wait_for(listening, 30)

    async def push(self, socket: ClientConnection, number: int, picture: bytes) -> None:
        self.begun[number] = time.monotonic()
        self.ready.clear()
        frame = {"type": "input.frame", "seq_no": number, "timestamp": float(number), "mime_type": "image/jpeg"}
        await socket.send(json.dumps(frame))
        await asyncio.wait_for(self.ready.wait(), 30)
        await socket.send(picture)


def jpeg(session: int, number: int) -> bytes:
    """A picture of coarse noise, which no other session has."""
    noise = np.random.default_rng((session, number)).integers(0, 256, (HEIGHT // 16, WIDTH // 16, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


async def run(given: argparse.Namespace) -> list[Session]:
    url = given.url.replace("http", "ws", 1) + "/v1/video/realtime"
    sessions = [Session(number) for number in range(given.sessions)]
    await asyncio.gather(*(one.watch(url, given) for one in sessions))
    return sessions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    for name, default in (("sessions", 64), ("rate", 12)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, seconds in (("seconds", 20.0), ("warm-up", 10.0)):
        parser.add_argument(f"--{name}", type=float, default=seconds)
    given = parser.parse_args()
    sessions = asyncio.run(run(given))
    lags = [1e3 * lag for one in sessions for lag in one.lags]
    spoken = sum(one.tokens for one in sessions) / len(sessions) / (given.seconds + given.warm_up)
    slow = quantiles(lags, n=20)[18]
    print(f"{len(sessions)} sessions, {len(lags)} frames: mean {fmean(lags):.1f} ms, 95 % {slow:.1f} ms")
    print(f"{spoken:.1f} tokens/s each; rejected: {sum(one.rejected for one in sessions)}")
    print("ended:", {one.ended for one in sessions})


if __name__ == "__main__":
    main()
