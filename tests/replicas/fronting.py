"""A front over replicas that answer from memory: as quick to start as to kill.

    python tests/replicas/fronting.py REPLICAS FULL '{"max_queue": 4}'

A replica answers a conversation with the words of its last message, one chunk each: whole, or as a stream of any API.
"""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from websockets.frames import Opcode
from websockets.server import ServerProtocol

TESTS = Path(__file__).parents[1]
CHUNK = b"%x\r\n%b\r\n"


async def read_request(reader):
    """A request's head, and its method, target, headers and body."""
    raw = await reader.readuntil(b"\r\n\r\n")
    head = raw.decode("latin-1").split("\r\n")
    method, target, _ = head[0].split(" ")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
    body = b""
    if headers.get("transfer-encoding") == "chunked":
        while size := int((await reader.readline()).strip(), 16):
            body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
    elif "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
    return raw, method, target, headers, body


def last_text(given):
    turns = given.get("messages") or given.get("input") or given.get("prompt")
    text = turns if isinstance(turns, str) else turns[-1]["content"]
    return text if isinstance(text, str) else next(part["text"] for part in text if "text" in part)


class StandIn:
    def __init__(self, number):
        self.number = number
        self.cancelled = 0

    async def serve(self, reader, writer):
        try:
            raw, method, target, headers, body = await read_request(reader)
            path = target.partition("?")[0]
            broken = Path(os.environ["TMPDIR"], "broken")
            if broken.exists() and broken.read_text() == str(os.getpid()):
                writer.write(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")
                await writer.drain()
            elif "upgrade" in headers:
                await self.talk(raw, reader, writer)
            elif method == "POST" and path in ("/v1/chat/completions", "/v1/responses", "/v1/messages"):
                await self.answer(path, json.loads(body), headers, writer)
            elif path == "/flood":
                await self.flood(writer, int(headers["x-bytes"]))
            else:
                told = {"replica": self.number, "process": os.getpid(), "bytes": len(body), "method": method}
                told |= {"cancelled": self.cancelled, "headers": headers}
                text = (
                    "# TYPE mossvl_stand_in_total counter\nmossvl_stand_in_total 2.0\n" if path == "/metrics" else None
                )
                await self.whole(writer, text or json.dumps(told))
        except (asyncio.IncompleteReadError, ConnectionError):
            self.cancelled += 1
        finally:
            writer.close()

    async def talk(self, raw, reader, writer):
        """A socket of the simple protocol: what is asked is said again."""
        protocol = ServerProtocol()
        protocol.receive_data(raw)
        (request,) = protocol.events_received()
        protocol.send_response(protocol.accept(request))
        while True:
            writer.write(b"".join(protocol.data_to_send()))
            await writer.drain()
            if protocol.close_expected():
                return
            data = await reader.read(1 << 16)
            protocol.receive_data(data) if data else protocol.receive_eof()
            for frame in protocol.events_received():
                if frame.opcode is Opcode.TEXT:
                    given = json.loads(frame.data)
                    if given["type"] == "die":
                        os._exit(9)
                    protocol.send_text(json.dumps({"type": "output", "text": given.get("text", "ready")}).encode())

    async def whole(self, writer, text):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(text.encode()), text.encode()))
        await writer.drain()

    async def answer(self, path, given, headers, writer):
        words, pause = last_text(given).split(), given.get("seed", 0) / 1000
        if words[:1] == ["die"]:
            os._exit(9)
        if not given.get("stream"):
            await asyncio.sleep(pause)
            told = {"replica": self.number, "text": " ".join(words), "id": headers["x-request-id"]}
            await self.whole(writer, json.dumps(told))
            return
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        events = [self.event(path, number, word) for number, word in enumerate(words)]
        for number, event in enumerate([self.opening(path), *events, self.closing(path)]):
            if words[number - 1 : number] == ["die"]:
                await asyncio.sleep(0.05)
                os._exit(9)
            writer.write(CHUNK % (len(event), event))
            await writer.drain()
            await asyncio.sleep(pause)
            if writer.is_closing():
                raise ConnectionError
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    def opening(self, path):
        if path != "/v1/responses":
            return b": hello\n\n"
        opened = {
            "type": "response.created",
            "sequence_number": 0,
            "response": {"id": "resp_1", "status": "in_progress"},
        }
        return b"event: response.created\ndata: %b\n\n" % json.dumps(opened).encode()

    def event(self, path, number, word):
        if path == "/v1/responses":
            told = {"type": "response.output_text.delta", "sequence_number": number + 1, "delta": word}
        else:
            told = {"choices": [{"delta": {"content": word}}], "replica": self.number}
        return b"data: %b\n\n" % json.dumps(told).encode()

    def closing(self, path):
        return b"data: [DONE]\n\n"

    async def flood(self, writer, count):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % count)
        sent = 0
        while sent < count:
            writer.write(b"x" * (piece := min(1 << 16, count - sent)))
            sent += piece
            (Path(os.environ["TMPDIR"]) / "sent").write_text(str(sent))
            await writer.drain()


def stand_in(pipe, number, config, load, name, folder):
    """The target of a replica's process."""
    from mossvl.replicas.living import tell_ready
    from mossvl.server.front.about import About

    path = folder / f"{number}-{os.getpid()}.sock"

    async def serve():
        replica, over = StandIn(number), asyncio.Event()
        running = set()

        async def one(reader, writer):
            running.add(task := asyncio.current_task())
            try:
                await replica.serve(reader, writer)
            finally:
                running.discard(task)

        server = await asyncio.start_unix_server(one, str(path), backlog=2048)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
        other = Path(os.environ["TMPDIR"], "version")
        tell_ready(pipe, About(str(path), other.read_text()) if other.exists() else About(str(path)))
        fleeting = Path(os.environ["TMPDIR"], "fleeting")
        if fleeting.exists() and str(number) in fleeting.read_text():
            os._exit(9)
        await over.wait()
        server.close()
        if running:
            await asyncio.wait(running, timeout=config.shutdown_timeout)

    asyncio.run(serve())
    path.unlink(missing_ok=True)


class Front:
    """A front that runs in a process of its own."""

    def __init__(self, process):
        self.process, self.url, self.lines = process, "", []

    def read(self, found):
        for line in self.process.stderr:
            self.lines.append(line)
            if match := re.search(r"listening on (http://\S+)", line):
                self.url = match[1]
                found.set()
        found.set()

    @property
    def log(self):
        return "".join(self.lines)


@contextmanager
def fronting(count=2, full=64, version=None, **config):
    """A front over stand-ins, in a folder of its own for temporary files, which is to be empty at the end."""
    command = [sys.executable, __file__, str(count), str(full), json.dumps(config)]
    with TemporaryDirectory() as folder:
        if version is not None:
            Path(folder, "version").write_text(version)
        given = os.environ | {"MOSSVL_UNREGISTERED": "1", "TMPDIR": folder}
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=given)
        front, found = Front(process), threading.Event()
        front.folder = Path(folder)
        reading = threading.Thread(target=front.read, args=(found,), daemon=True)
        reading.start()
        try:
            found.wait(120)
            assert front.url, front.log
            yield front
        finally:
            process.kill()
            process.wait()
            reading.join()
            process.stderr.close()


def main():
    sys.path.insert(0, str(TESTS))
    from replicas.fronting import stand_in as target

    from mossvl.replicas.replica import Patience
    from mossvl.replicas.shares import Share
    from mossvl.server.config import ServerConfig
    from mossvl.server.front import checks
    from mossvl.server.front.run import run_front

    given = json.loads(sys.argv[3])
    for name in ("PAUSE_SECONDS", "ANSWER_SECONDS", "UNANSWERED"):
        setattr(checks, name, given.pop(name.lower(), getattr(checks, name)))
    bounds = {"steady": given.pop("steady", 0.0), "early": given.pop("early", 10)}
    quick = Patience(first=0.01, most=0.05, stop=given.get("shutdown_timeout", 30) + 2, **bounds)
    config = ServerConfig(port=0, **{name: tuple(one) if isinstance(one, list) else one for name, one in given.items()})
    run_front(config, [Share()] * int(sys.argv[1]), None, "stand-in", int(sys.argv[2]), target, quick)


if __name__ == "__main__":
    from mossvl.errors import MossVLError

    try:
        main()
    except MossVLError as error:
        sys.exit(f"error: {error}")
