"""What two served replicas of mossvl-tiny give, held to a core each, against one server that is held to one (Linux).

    python benchmarks/served.py [--seconds 25] [--tokens 64] [--clients 16] [--rounds 3]

Clients ask one question after the other; both servers run, and take turns. Told are tokens for a second of the servers'
processor time (of all their processes), which other programs change less than tokens a second, and the front's share of
that time: medians of the rounds. Two replicas are asked by as many clients each as one server, and by as many in all.
"""

import argparse
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from statistics import median

CORES = sorted(os.sched_getaffinity(0))[:2]


def processor_seconds(pid: int) -> float:
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(ticks) for ticks in stat[11:13]) / os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """A process and all that it has started."""
    children = [one for task in Path(f"/proc/{pid}/task").iterdir() for one in (task / "children").read_text().split()]
    return [pid, *(one for child in children for one in family(int(child)))]


class Server:
    """`mossvl serve` with so many replicas, each of which has a core of its own."""

    def __init__(self, replicas: int) -> None:
        command = [sys.executable, "-m", "mossvl", "serve", "-dp", str(replicas), "--port", "0", "--device", "cpu"]
        own = os.environ | {"OMP_NUM_THREADS": "1"}  # As it will be held to one core.
        self.process = subprocess.Popen([*command, "--decoders", "1"], stderr=subprocess.PIPE, text=True, env=own)
        self.port, found, behind = 0, {}, replicas if replicas > 1 else 0  # Of one alone, no front tells.
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if match := re.search(r"listening on http://127.0.0.1:(\d+)", line):
                self.port = int(match[1])
                if not behind:
                    break
            if match := re.search(r"replica (\d+) is ready: process (\d+)", line):
                found[int(match[1])] = int(match[2])
                if len(found) == behind:
                    break
        threading.Thread(target=self.process.stderr.read, daemon=True).start()
        while not self._ready():
            time.sleep(0.2)
        for core, pid in zip(CORES, found.values() if found else [self.process.pid], strict=False):
            for one in family(pid):
                for task in Path(f"/proc/{one}/task").iterdir():
                    os.sched_setaffinity(int(task.name), {core})

    def _ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200

    def measure(self, clients: int, given: argparse.Namespace) -> tuple[float, float]:
        """Tokens for a second of processor time, and the front's share of it."""
        counts, until = [0] * clients, time.monotonic() + given.seconds
        threads = [threading.Thread(target=self._ask, args=(one, counts, until, given)) for one in range(clients)]
        before = {pid: processor_seconds(pid) for pid in family(self.process.pid)}
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took = {pid: processor_seconds(pid) - begun for pid, begun in before.items()}
        return sum(counts) / sum(took.values()), took[self.process.pid] / sum(took.values())

    def _ask(self, number: int, counts: list[int], until: float, given: argparse.Namespace) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        asked = 0
        while time.monotonic() < until:
            asked += 1
            messages = [{"role": "user", "content": f"Question {asked} of {number}: what do you see?"}]
            body = json.dumps({"messages": messages, "max_tokens": given.tokens, "ignore_eos": True})
            connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
            answer = json.loads(connection.getresponse().read())
            counts[number] += answer["usage"]["completion_tokens"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"seconds": 25, "tokens": 64, "clients": 16, "rounds": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    one, two = Server(1), Server(2)
    ways = {"one server": (one, 1), "two replicas, as many clients each": (two, 2), "… as many in all": (two, 1)}
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    try:
        for _ in range(given.rounds):
            for way, (server, times) in ways.items():
                found[way].append(server.measure(times * given.clients, given))
    finally:
        for server in (one, two):
            server.process.send_signal(signal.SIGTERM)
            server.process.wait()
    print("| | tokens for a second of processor time | twice that, against one server | the front's share |")
    print("|---|---:|---:|---:|")
    alone = median(rate for rate, _ in found["one server"])
    for way, rounds in found.items():
        rate, front = median(rate for rate, _ in rounds), median(share for _, share in rounds)
        told = ("", "") if way == "one server" else (f"{2 * rate / alone:.2f} ×", f"{front:.1%}")
        print(f"| {way} | {rate:.0f} | {told[0]} | {told[1]} |")


if __name__ == "__main__":
    main()
