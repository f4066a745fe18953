"""A server under load: many clients, some of which go away, send broken media, or read slowly.

    python benchmarks/serving.py --clients 64 --seconds 60                     mossvl-tiny, every answer checked
    python benchmarks/serving.py --random --clients 64 --seconds 60            the published size, random weights (GPU)

Starts `mossvl serve` on a free loopback port. Told are latencies, tokens a second, what failed, how late the event loop
was, and what the server's process held before and after: memory, threads, file descriptors, pages.
"""

import argparse
import asyncio
import base64
import io
import json
import random
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from statistics import quantiles
from typing import Any

import httpx
import numpy as np
from PIL import Image

EXAMPLES = Path(__file__).parent.parent / "examples"
QUESTIONS = [
    ("clip.mp4", "When does the blue star appear?", "2.0 seconds"),
    ("clip.mp4", "Which way does the red circle move?", "right"),
    ("sign.png", "What is written there?", "MOSS"),
    ("shapes.png", "Where is the green pentagon?", "At the top left."),
]
WARM_SECONDS = 15.0
"""After which the server's process has all that it keeps."""


def part(file: str, content: bytes | None = None) -> dict[str, Any]:
    data = (EXAMPLES / file).read_bytes() if content is None else content
    kind, mime = ("video_url", "video/mp4") if file.endswith("mp4") else ("image_url", "image/png")
    return {"type": kind, kind: {"url": f"data:{mime};base64,{base64.b64encode(data).decode()}"}}


def noise(number: int) -> bytes:
    """A picture of 448 × 448 that nobody has seen before, as PNG."""
    pixels = np.random.default_rng(number).integers(0, 256, (448, 448, 3), dtype=np.uint8)
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "PNG", compress_level=0)
    return written.getvalue()


class Load:
    """What clients did, and what came of it."""

    def __init__(self, given: argparse.Namespace, url: str) -> None:
        self.given, self.url = given, url
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.first: list[float] = []
        self.total: list[float] = []
        self.tokens = 0
        self.ends = time.monotonic() + given.seconds
        self.numbers = iter(range(10**9))

    async def client(self, seed: int) -> None:
        chance = random.Random(seed)
        async with httpx.AsyncClient(timeout=300) as http:
            while time.monotonic() < self.ends:
                drawn = chance.random()
                if self.given.random:
                    await self.ask(
                        http, part("a.png", noise(next(self.numbers))), "Describe it.", None, "whole", chance
                    )
                    continue
                file, question, answer = chance.choice(QUESTIONS)
                how = "gone" if drawn < 0.10 else "broken" if drawn < 0.20 else "slow" if drawn < 0.25 else "whole"
                content = (EXAMPLES / file).read_bytes()[: chance.randrange(2000)] if how == "broken" else None
                await self.ask(http, part(file, content), question, answer, how, chance)

    async def ask(
        self,
        http: httpx.AsyncClient,
        medium: dict[str, Any],
        question: str,
        answer: str | None,
        how: str,
        chance: random.Random,
    ) -> None:
        body: dict[str, Any] = {"messages": [{"role": "user", "content": [medium, {"type": "text", "text": question}]}]}
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        if self.given.random:
            body |= {"max_completion_tokens": self.given.tokens, "ignore_eos": True}
        begun, text, error, done = time.monotonic(), "", "", False
        leaves = begun + chance.random() * 0.3 if how == "gone" else float("inf")
        try:
            async with http.stream("POST", f"{self.url}/v1/chat/completions", json=body) as response:
                if response.status_code != 200:
                    await response.aread()
                    error = response.json()["error"]["code"]
                async for line in response.aiter_lines() if not error else nothing():
                    if time.monotonic() > leaves:
                        break
                    if how == "slow":
                        await asyncio.sleep(0.2)
                    if not line.startswith("data: {"):
                        done |= line == "data: [DONE]"
                        continue
                    piece = json.loads(line[6:])
                    if "error" in piece:
                        error = piece["error"]["code"]
                    for choice in piece.get("choices", ()):
                        new = choice["delta"].get("content") or ""
                        if new and not text and how == "whole":
                            self.first.append(time.monotonic() - begun)
                        text += new
                    if piece.get("usage"):
                        self.tokens += piece["usage"]["completion_tokens"]
        except httpx.HTTPError as raised:
            error = type(raised).__name__
        if how == "whole" and not error:
            self.total.append(time.monotonic() - begun)
        right = answer is None or text == answer
        if how != "gone" and not (error == "invalid_media" if how == "broken" else done and right):
            self.wrong.append(f"{how}: {question!r} -> {text!r} {error}")
        self.outcomes[f"{how}: {error or ('left' if not done else 'answered')}"] += 1


async def nothing() -> Any:
    for never in ():
        yield never


def held(pid: int, url: str) -> dict[str, float]:
    """What the server's process holds."""
    status = Path(f"/proc/{pid}/status").read_text()
    metrics = httpx.get(f"{url}/metrics").text
    return {
        "MiB": int(re.search(r"VmRSS:\s+(\d+)", status)[1]) // 1024,
        "threads": int(re.search(r"Threads:\s+(\d+)", status)[1]),
        "descriptors": len(list(Path(f"/proc/{pid}/fd").iterdir())),
        "requests": metric(metrics, "mossvl_requests_running") + metric(metrics, "mossvl_requests_waiting"),
        "pages free": metric(metrics, "mossvl_pages_free"),
    }


def metric(text: str, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def lags(url: str) -> dict[str, int]:
    """How often the event loop was late by at most so many seconds."""
    metrics = httpx.get(f"{url}/metrics").text
    found = re.findall(r'mossvl_event_loop_lag_seconds_bucket\{le="(\S+?)"\} (\S+)', metrics)
    return {edge: int(float(count)) for edge, count in found}


def percentiles(seconds: list[float]) -> dict[str, float]:
    if len(seconds) < 2:
        return {}
    cut = quantiles(seconds, n=100)
    return {f"p{place}": round(1e3 * cut[place - 1], 1) for place in (50, 90, 99)} | {
        "most": round(1e3 * max(seconds), 1)
    }


async def under_load(given: argparse.Namespace, url: str, pid: int) -> dict[str, Any]:
    load = Load(given, url)
    lateness = lags(url)
    clients = [asyncio.create_task(load.client(seed)) for seed in range(given.clients)]
    await asyncio.sleep(min(WARM_SECONDS, given.seconds / 3))
    before = await asyncio.to_thread(held, pid, url)
    tokens, begun = load.tokens, time.monotonic()
    await asyncio.gather(*clients)
    seconds = time.monotonic() - begun
    for _ in range(100):
        after = await asyncio.to_thread(held, pid, url)
        if not after["requests"]:
            break
        await asyncio.sleep(0.1)
    late = {edge: count - lateness[edge] for edge, count in (await asyncio.to_thread(lags, url)).items()}
    return {
        "clients": given.clients,
        "requests": sum(load.outcomes.values()),
        "outcomes": dict(sorted(load.outcomes.items())),
        "wrong": load.wrong[:10],
        "first token ms": percentiles(load.first),
        "whole answer ms": percentiles(load.total),
        "tokens/s": round((load.tokens - tokens) / seconds, 1),
        "held after warm-up": before,
        "held at the end": after,
        "event loop late by at most, s": late,
    }


def serve_random() -> None:
    """A server with a model of the published size, random weights, on a GPU."""
    from training import processor

    from mossvl import MossVL
    from mossvl.loading import random_model
    from mossvl.model.configuration import MossVLConfig
    from mossvl.server.config import ServerConfig
    from mossvl.server.run import run

    def load() -> MossVL:
        known = processor()
        model = random_model(MossVLConfig(image_token_id=known.image_token_id), "cuda", "bfloat16")
        # Of the published vocabulary, this tokenizer knows the first tokens; each is to become a piece of text.
        model.lm_head.weight.data[min(known.tokenizer.added_tokens_decoder) :] = 0
        return MossVL(model, known)

    run(ServerConfig(port=0, max_queue=1024), load, "random")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--random", action="store_true", help="the published size, with random weights")
    parser.add_argument("--tokens", type=int, default=129, help="of each answer, with --random")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve_random()
        return
    command = [sys.executable, "-m", "mossvl", "serve", "--port", "0"]
    if given.random:
        command = [sys.executable, __file__, "--serve"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        url = ""
        while not (found := re.search(r"listening on (http://\S+)", line := server.stderr.readline())):
            assert line, "the server has ended"
        url = found[1]
        ready = threading.Event()
        follow = lambda: [ready.is_set() or sys.stderr.write(line) for line in server.stderr]  # noqa: E731
        threading.Thread(target=follow, daemon=True).start()
        while httpx.get(f"{url}/ready").status_code != 200:
            time.sleep(0.5)
        ready.set()
        print(json.dumps(asyncio.run(under_load(given, url, server.pid)), indent=1))
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
