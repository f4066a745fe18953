"""A server under load: many clients, some of which go away, send broken media, or read slowly.

    python benchmarks/serving.py --clients 64 --seconds 60                     mossvl-tiny, every answer checked
    python benchmarks/serving.py --random --clients 64 --seconds 60            the published size, random weights (GPU)

Starts `mossvl serve` on a free loopback port. Told are latencies, tokens a second and processor time of the server's
process (once it is warm, until the time is over), what failed, how late the event loop was, and what that process held
before and after: memory, threads, file descriptors, pages.
"""

import argparse
import asyncio
import base64
import io
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, fields
from multiprocessing import get_context
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
    end = Path(file).suffix[1:]
    kind, mime = ("video_url", "video/mp4") if end == "mp4" else ("image_url", f"image/{end}")
    return {"type": kind, kind: {"url": f"data:{mime};base64,{base64.b64encode(data).decode()}"}}


def picture(chance: random.Random) -> bytes:
    """A picture of 448 × 448 that nobody has seen before, as JPEG."""
    pixels = np.frombuffer(chance.randbytes(14 * 14 * 3), np.uint8).reshape(14, 14, 3)
    written = io.BytesIO()
    Image.fromarray(pixels).resize((448, 448)).save(written, "JPEG")
    return written.getvalue()


@dataclass
class Seen:
    """What came of clients' requests; times in seconds."""

    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    total: list[float] = field(default_factory=list)

    def __add__(self, other: "Seen") -> "Seen":
        return Seen(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))


class Load:
    """Clients of one process."""

    def __init__(self, given: argparse.Namespace, url: str) -> None:
        self.given, self.url = given, url
        self.seen = Seen()
        self.ends = time.monotonic() + given.seconds

    @classmethod
    def of_clients(cls, given: argparse.Namespace, url: str, clients: range) -> Seen:
        load = cls(given, url)

        async def all_clients() -> None:
            await asyncio.gather(*(load.client(seed) for seed in clients))

        asyncio.run(all_clients())
        return load.seen

    async def client(self, seed: int) -> None:
        chance = random.Random(seed)
        async with httpx.AsyncClient(timeout=300) as http:
            while time.monotonic() < self.ends:
                drawn = chance.random()
                if self.given.random:
                    await self.ask(http, part("a.jpeg", picture(chance)), "Describe it.", None, "whole", chance)
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
                            self.seen.first.append(time.monotonic() - begun)
                        text += new
        except httpx.HTTPError as raised:
            error = type(raised).__name__
        if how == "whole" and not error:
            self.seen.total.append(time.monotonic() - begun)
        right = answer is None or text == answer
        if how != "gone" and not (error == "invalid_media" if how == "broken" else done and right):
            self.seen.wrong.append(f"{how}: {question!r} -> {text!r} {error}")
        self.seen.outcomes[f"{how}: {error or ('left' if not done else 'answered')}"] += 1


async def nothing() -> Any:
    for never in ():
        yield never


def held(pid: int, url: str) -> dict[str, float]:
    """What the server's process holds."""
    status = Path(f"/proc/{pid}/status").read_text()
    stat = Path(f"/proc/{pid}/stat").read_text().split()
    metrics = httpx.get(f"{url}/metrics").text
    return {
        "MiB": int(re.search(r"VmRSS:\s+(\d+)", status)[1]) // 1024,
        "threads": int(re.search(r"Threads:\s+(\d+)", status)[1]),
        "descriptors": len(list(Path(f"/proc/{pid}/fd").iterdir())),
        "requests": metric(metrics, "mossvl_requests_running") + metric(metrics, "mossvl_requests_waiting"),
        "pages free": metric(metrics, "mossvl_pages_free"),
        "tokens": metric(metrics, 'mossvl_tokens_total{kind="new"}'),
        "processor": sum(int(ticks) for ticks in stat[13:15]) / os.sysconf("SC_CLK_TCK"),
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


def under_load(given: argparse.Namespace, url: str, pid: int) -> dict[str, Any]:
    lateness = lags(url)
    clients = [range(first, given.clients, given.processes) for first in range(given.processes)]
    with ProcessPoolExecutor(given.processes, get_context("spawn")) as pool:
        running = [pool.submit(Load.of_clients, given, url, some) for some in clients]
        warm = min(WARM_SECONDS, given.seconds / 3)
        time.sleep(warm)
        before, begun = held(pid, url), time.monotonic()
        time.sleep(given.seconds - warm)
        during, seconds = held(pid, url), time.monotonic() - begun
        seen = sum((one.result() for one in running), Seen())
    for _ in range(100):
        after = held(pid, url)
        if not after["requests"]:
            break
        time.sleep(0.1)
    late = {edge: count - lateness[edge] for edge, count in lags(url).items()}
    return {
        "clients": given.clients,
        "requests": sum(seen.outcomes.values()),
        "outcomes": dict(sorted(seen.outcomes.items())),
        "wrong": seen.wrong[:10],
        "first token ms": percentiles(seen.first),
        "whole answer ms": percentiles(seen.total),
        "tokens/s": round((during["tokens"] - before["tokens"]) / seconds, 1),
        "processor seconds a second": round((during["processor"] - before["processor"]) / seconds, 2),
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
    parser.add_argument("--processes", type=int, default=max(1, (os.cpu_count() or 1) // 4), help="of the clients")
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

        def follow() -> None:
            for line in server.stderr:
                if not ready.is_set():
                    sys.stderr.write(line)

        threading.Thread(target=follow, daemon=True).start()
        while httpx.get(f"{url}/ready").status_code != 200:
            time.sleep(0.5)
        ready.set()
        print(json.dumps(under_load(given, url, server.pid), indent=1))
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
