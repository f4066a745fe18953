"""What the front of several replicas costs: the same replica asked through it and directly, in turns.

    python benchmarks/front.py --streams 256 --rounds 5

The replica answers from memory, one token for each stream in every step, so that only HTTP is measured. Told are, for
each way, tokens a second of the streams and times of single requests (medians of the rounds, and their ratio), and the
front's processor time for a request and for an event.
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENT = b"data: " + json.dumps({"id": "chatcmpl-" + "0" * 24, "choices": [{"delta": {"content": " word"}}]}).encode()
CHUNK = b"%x\r\n%b\n\n\r\n" % (len(EVENT) + 2, EVENT)
WHOLE = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


class Memory:
    """An engine that answers from memory: a token for each stream in every step."""

    def __init__(self, step: float) -> None:
        self.step, self.streams = step, {}

    async def run(self) -> None:
        due = time.monotonic()
        while True:
            due = max(due + self.step, time.monotonic())
            await asyncio.sleep(due - time.monotonic())
            for writer, left in list(self.streams.items()):
                writer.write(CHUNK if left else b"0\r\n\r\n")
                self.streams[writer] = left - 1
                if not left:
                    del self.streams[writer]
                    writer.close()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = head.partition(b"content-length: ")[2].partition(b"\r")[0]
            given = json.loads(await reader.readexactly(int(length))) if length else {}
        except asyncio.IncompleteReadError:
            writer.close()
            return
        if given.get("stream"):
            writer.write(HEAD)
            self.streams[writer] = given["max_tokens"]
            return
        writer.write(WHOLE)
        await writer.drain()
        writer.close()


def replica(pipe, number, config, load, name, folder) -> None:
    """The target of the replica's process, which also listens on a port of its own."""
    from mossvl.replicas.living import tell_ready
    from mossvl.server.front.about import About

    async def serve() -> None:
        memory = Memory(float(os.environ["STEP"]))
        path = str(folder / "memory.sock")
        await asyncio.start_unix_server(memory.answer, path, backlog=2048)
        direct = await asyncio.start_server(memory.answer, "127.0.0.1", 0, backlog=2048)
        Path(os.environ["PORT"]).write_text(str(direct.sockets[0].getsockname()[1]))
        tell_ready(pipe, About(path))
        await memory.run()

    asyncio.run(serve())


def front() -> None:
    from front import replica as target  # This file, under a name that the replica's process knows it by, too.

    from mossvl.replicas.shares import Share
    from mossvl.server.config import ServerConfig
    from mossvl.server.front.run import run_front

    run_front(ServerConfig(port=0, max_queue=4096), [Share()], None, "memory", 4096, target)


async def ask(port: int, tokens: int) -> int:
    """One request on a connection of its own; return the events of its answer."""
    body = json.dumps(
        {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": tokens, "stream": bool(tokens)}
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {len(body)}"
    writer.write(f"{head}\r\n\r\n{body}".encode())
    events = 0
    while data := await reader.read(1 << 16):
        events += data.count(b"data: ")
    writer.close()
    return events


async def single(port: int, count: int) -> float:
    """Median seconds of requests, one after the other."""
    times = []
    for _ in range(count):
        begun = time.perf_counter()
        await ask(port, 0)
        times.append(time.perf_counter() - begun)
    return median(times)


async def streams(port: int, count: int, tokens: int) -> float:
    """Tokens a second of streams at once."""
    begun = time.perf_counter()
    got = await asyncio.gather(*(ask(port, tokens) for _ in range(count)))
    assert set(got) == {tokens}, set(got)
    return count * tokens / (time.perf_counter() - begun)


def processor_seconds(pid: int) -> float:
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(ticks) for ticks in stat[11:13]) / os.sysconf("SC_CLK_TCK")


async def measure(given: argparse.Namespace, ports: dict[str, int], pid: int) -> None:
    found = {what: {way: [] for way in ports} for what in ("streams, tokens/s", "one request, ms")}
    costs: dict[str, list[float]] = {"request, ms": [], "event, µs": []}
    for _ in range(given.rounds):
        for way, port in ports.items():
            before = processor_seconds(pid)
            found["one request, ms"][way].append(1e3 * await single(port, given.requests))
            between = processor_seconds(pid)
            found["streams, tokens/s"][way].append(await streams(port, given.streams, given.tokens))
            if way == "front":
                request = (between - before) / given.requests
                spent = processor_seconds(pid) - between - given.streams * request
                costs["request, ms"].append(1e3 * request)
                costs["event, µs"].append(1e6 * spent / (given.streams * given.tokens))
    for what, ways in found.items():
        direct, through = median(ways["direct"]), median(ways["front"])
        rounds = [round(b / a, 3) for a, b in zip(ways["direct"], ways["front"], strict=True)]
        print(f"{what}: direct {direct:.2f}, through the front {through:.2f}; ratio of each round {rounds}")
    for what, values in costs.items():
        print(f"the front's processor time for one {what}: {median(values):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=100, help="of each stream")
    parser.add_argument("--step", type=float, default=0.05, help="seconds in which each stream gets a token")
    parser.add_argument("--requests", type=int, default=500, help="requests one after the other")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--front", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.front:
        front()
        return
    with TemporaryDirectory() as folder:
        file = Path(folder, "port")
        environment = os.environ | {"STEP": str(given.step), "PORT": str(file), "MOSSVL_UNREGISTERED": "1"}
        command = [sys.executable, __file__, "--front"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        try:
            url = told = ""
            for line in process.stderr:
                told += line
                if "listening on" in line:
                    url = line.split()[-1]
                if "is ready" in line:
                    break
            else:
                sys.exit(f"the front has not started:\n{told}")
            ports = {"direct": int(file.read_text()), "front": int(url.rpartition(":")[2])}
            asyncio.run(measure(given, ports, process.pid))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


if __name__ == "__main__":
    main()
