"""A soak: does `mossvl serve` answer innocent clients exactly, and stay small, while hostile ones do their worst?

    python benchmarks/soak.py --rounds 3 --seconds 60

docs/testing.md says what is asked, and what must come of it; the exit status is 1 if something was otherwise.
"""

import argparse
import asyncio
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import httpx
from serving import metric
from soak_attacks import attacks
from soak_requests import CLIP, FILES, KNOWN, Body, Target, answered, innocents

PATIENCE = 120.0  # seconds, for anything
FLAGS = ["--memory", str(256 << 20), "--vision-cache", str(32 << 20), "--upload-space", str(16 << 20)]
"""So that all that is kept for later requests is full after a round."""
KILLED = ("decoder", "template")
KILLS = 3  # of processes that have nothing to do, in a round
IDLE_SECONDS = 11.0  # after which idle threads end, at the next request that needs one
SLACK, SLACK_MIB, SLACK_COUNT = (
    0.05,
    20,
    2,
)  # growth of a round: of memory, in MiB; of counts
ORDINARY = re.compile(
    r"[-\d]{10} [:,\d]{12} (INFO|WARNING Invalid HTTP request received|"
    r"ERROR a request was refused: there is no room for temporary files)"
)
"""Lines of the log that tell of no fault of the server's."""

# --- the server ------------------------------------------------------------------------------------------------------


@dataclass
class Server:
    process: subprocess.Popen[str]
    folder: Path
    url: str = ""
    strange: list[str] = field(default_factory=list)
    """Other lines of the log than `ORDINARY` ones."""
    killed: set[str] = field(default_factory=set)
    """Kinds of processes."""

    def follow(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if found := re.search(r"listening on (http://\S+)", line):
                self.url = found[1]
            if self.url and not ORDINARY.match(line):
                self.strange.append(line.rstrip())

    def quiet(self) -> bool:
        """Nothing runs, and nothing is kept of what has run but the cache, and files that were uploaded."""
        told = httpx.get(f"{self.url}/metrics", timeout=PATIENCE).text
        running = [metric(told, f"mossvl_{name}") for name in ("requests_running", "requests_waiting", "media_bytes")]
        return not any(running) and metric(told, "mossvl_pages_free") == metric(told, "mossvl_pages")

    def kill_idle(self) -> None:
        """Kill -9 of the processes that decode media, and of those that others are forked from to follow grammars."""
        for pid, kind in descendants(self.process.pid).items():
            if kind in KILLED:
                os.kill(pid, signal.SIGKILL)
                self.killed.add(kind)


@contextmanager
def serving() -> Iterator[Server]:
    """`mossvl serve`, as a user starts it, once it is ready."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "mossvl", "serve", "--port", "0", *FLAGS]
        given = {name: value for name, value in os.environ.items() if not name.startswith("MOSSVL_")}
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=given | {"TMPDIR": folder})
        server = Server(process, Path(folder))
        threading.Thread(target=server.follow, daemon=True).start()
        try:
            assert until(lambda: server.url and httpx.get(f"{server.url}/ready").status_code == 200)
            yield server
        finally:
            process.kill()
            process.wait()


def until(condition, seconds: float = PATIENCE) -> bool:
    """Wait for a condition; whether it came true in time."""
    ends = time.monotonic() + seconds
    while not (true := condition()) and time.monotonic() < ends:
        time.sleep(0.1)
    return bool(true)


def descendants(pid: int) -> dict[int, str]:
    """The processes that a process has started, and those that they have: what they are."""
    parents, commands = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(") ")[2].split()[1])
            commands[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
    own = {one for one in parents if parents[one] == pid}
    found = {one: "template" if "forms/process.py" in commands.get(one, "") else "other" for one in own}
    for one, above in parents.items():
        if above in own and commands.get(one):  # One that has ended, and that nobody waits for, has no command.
            found[one] = "follower" if found[above] == "template" else "decoder"
    return found


@dataclass
class Held:
    """What the server holds: memory in MiB, its own and of the processes that it has started; and how many of what.

    Decoders live for a third of a round, and there may be one or two: no growth can be seen in them.
    """

    own: int
    started: int
    decoders: int
    threads: int
    descriptors: int
    processes: int
    files: int

    @classmethod
    def of(cls, server: Server) -> "Held":
        own, kinds = Path(f"/proc/{server.process.pid}"), descendants(server.process.pid)
        started = {pid: memory(Path(f"/proc/{pid}")) for pid in kinds}
        decoders = sum(started[pid] for pid, kind in kinds.items() if kind == "decoder")
        files = [path for path in server.folder.rglob("*") if path.is_file()]
        counts = [len(os.listdir(own / name)) for name in ("task", "fd")]
        return cls(memory(own), sum(started.values()) - decoders, decoders, *counts, len(started), len(files))

    def grown(self, before: "Held") -> list[str]:
        most = {name: getattr(before, name) + SLACK_COUNT for name in ("threads", "descriptors", "processes")}
        most |= {name: getattr(before, name) * (1 + SLACK) + SLACK_MIB for name in ("own", "started")}
        most["files"] = before.files
        grown = [name for name in most if getattr(self, name) > most[name]]
        return [f"{name} grew from {getattr(before, name)} to {getattr(self, name)}" for name in grown]


def memory(process: Path) -> int:
    """Of a process, in MiB, with what it shares: its share of that would change with whoever else has it."""
    with suppress(OSError):
        return int(re.search(r"Rss:\s+(\d+)", (process / "smaps_rollup").read_text())[1]) // 1024
    return 0


# --- rounds ----------------------------------------------------------------------------------------------------------


@dataclass
class Round:
    """What came of the requests of a round, and what the server held after it."""

    seconds: list[float] = field(default_factory=list)
    """That innocent requests took."""
    attacks: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    held: Held = field(init=False)


class Soak:
    def __init__(self, server: Server, given: argparse.Namespace) -> None:
        self.server, self.given, self.target = server, given, Target(server.url, server.process.pid)
        self.chance = random.Random(given.seed)
        self.deck: list[str] = []  # attacks that are still to come before they come again

    def prepare(self) -> None:
        """Ask each innocent request once alone."""
        upload = httpx.post(self.server.url + FILES, files={"file": ("clip.mp4", CLIP)}).json()
        self.requests = innocents(upload["id"])
        self.right = {name: asyncio.run(self.alone(body)) for name, body in self.requests.items()}
        for name, (status, texts) in self.right.items():
            assert status == "200" and KNOWN.get(name) in (None, texts[0][0]), f"{name}: {status} {texts}"
        self.attacks = attacks()

    async def alone(self, body: Body):
        async with httpx.AsyncClient(base_url=self.server.url, timeout=PATIENCE) as http:
            return await answered(http, body)

    def round(self) -> Round:
        now = Round()
        for _ in range(KILLS):
            self.server.kill_idle()
            asyncio.run(self.clients(now, time.monotonic() + self.given.seconds / KILLS))
            if not until(self.server.quiet):
                now.failures.append(f"it never became quiet: {httpx.get(f'{self.server.url}/metrics').text}")
        if not until(lambda: "follower" not in descendants(self.server.process.pid).values()):
            now.failures.append("a process follows a grammar of which there is no request")
        time.sleep(IDLE_SECONDS)
        asyncio.run(self.alone({}))
        now.held = Held.of(self.server)
        return now

    async def clients(self, now: Round, ends: float) -> None:
        async with httpx.AsyncClient(base_url=self.server.url, timeout=PATIENCE) as http:
            clients = [self.innocent(http, now, ends) for _ in range(self.given.innocent)]
            await asyncio.gather(*clients, *[self.hostile(now, ends) for _ in range(self.given.hostile)])

    async def innocent(self, http: httpx.AsyncClient, now: Round, ends: float) -> None:
        while (begun := time.monotonic()) < ends:
            name = self.chance.choice(list(self.requests))
            try:
                got = await answered(http, self.requests[name])
            except httpx.HTTPError as error:
                got = (type(error).__name__, [])
            now.seconds.append(time.monotonic() - begun)
            if got != self.right[name]:
                now.failures.append(f"innocent: {name}: {got} instead of {self.right[name]}")

    async def hostile(self, now: Round, ends: float) -> None:
        while time.monotonic() < ends:
            if not self.deck:
                self.deck = self.chance.sample(list(self.attacks), len(self.attacks))
            name = self.deck.pop()
            send, *right = self.attacks[name]
            try:
                async with asyncio.timeout(PATIENCE):
                    outcome = await send(self.target)
            except (httpx.HTTPError, OSError, TimeoutError) as error:
                outcome = type(error).__name__
            now.attacks[name] += 1
            if outcome not in right:
                now.failures.append(f"hostile: {name}: {outcome} instead of {' or '.join(right)}")


# --- the verdict -----------------------------------------------------------------------------------------------------


def table(rounds: list[Round]) -> str:
    """In Markdown."""
    wrong = [Counter(one.partition(":")[0] for one in now.failures) for now in rounds]
    rows = {
        "innocent requests": [len(now.seconds) for now in rounds],
        "… not answered rightly": [one["innocent"] for one in wrong],
        "… half of them within, all": [f"{median(now.seconds):.1f} s, {max(now.seconds):.1f} s" for now in rounds],
        "hostile requests": [now.attacks.total() for now in rounds],
        "… kinds of them": [len(now.attacks) for now in rounds],
        "… that did not end as they should": [one["hostile"] for one in wrong],
        "memory of the server's process, MiB": [now.held.own for now in rounds],
        "… of those that it has started": [now.held.started for now in rounds],
        "… of decoders beside them": [now.held.decoders for now in rounds],
        "threads": [now.held.threads for now in rounds],
        "file descriptors": [now.held.descriptors for now in rounds],
        "processes that it has started": [now.held.processes for now in rounds],
        "temporary files": [now.held.files for now in rounds],
    }
    head = ["after round", *(str(number + 1) for number in range(len(rounds)))]
    lines = [head, ["---", *["---:"] * len(rounds)], *([name, *map(str, row)] for name, row in rows.items())]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def stopped(server: Server) -> list[str]:
    """What a server does not leave as it should when it is told to stop, and what its log should not have."""
    started = descendants(server.process.pid)
    server.process.terminate()
    code = server.process.wait(PATIENCE)
    wrong = [f"exit status {code}"] if code else []
    if not until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started), 10):
        wrong.append(f"some of these processes are left: {started}")
    wrong += [f"{path} is left" for path in server.folder.glob("mossvl-*")]
    return wrong + [f"log: {line}" for line in server.strange]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60, help="of a round")
    parser.add_argument("--innocent", type=int, default=8, help="clients at a time")
    parser.add_argument("--hostile", type=int, default=4, help="clients at a time")
    parser.add_argument("--seed", type=int, default=0, help="of the order of requests")
    given = parser.parse_args()
    rounds: list[Round] = []
    with serving() as server:
        soak = Soak(server, given)
        soak.prepare()
        for _ in range(given.rounds):
            rounds.append(soak.round())
            print(f"round {len(rounds)}: {rounds[-1].held}", *rounds[-1].failures, sep="\n", flush=True)
        failures = [failure for now in rounds for failure in now.failures] + stopped(server)
    if len(rounds) > 1:
        failures += rounds[-1].held.grown(rounds[-2].held)
    failures += [f"never sent: {name}" for name in soak.attacks if not any(name in now.attacks for now in rounds)]
    failures += [f"never killed: {kind}" for kind in KILLED if kind not in server.killed]
    print(table(rounds))
    print("\n".join(failures) or "everything was as it should be")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
