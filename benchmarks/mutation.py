"""How many planted bugs the tests notice: each mutant of a module's source, against the tests that own the module.

    pip install mutmut==3.8.1
    python benchmarks/mutation.py [NAME ...] [--jobs 2] [--sample 150] [--seed 0]

runs the parts named, or all; docs/testing.md explains the rules and keeps the results. Of a part with more mutants than
`--sample`, so many are tried, the same ones for a seed. Survivors are printed as they are found.

The operators are mutmut's, and four more. A mutant is the whole package with one change, in a folder of its own; a
process that has imported everything else forks for it, so that a mutant costs its tests and little more.
"""

import argparse
import ast
import contextlib
import gc
import importlib
import importlib.metadata
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import libcst as cst
from libcst.metadata import MetadataWrapper, ParentNodeProvider, PositionProvider
from mutmut.mutation.mutators import mutation_operators

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Part:
    """Code, and the tests that own it.

    Attributes:
        code: files of the package; after a colon, the functions or classes meant, or else all.
        tests: files of tests, the quickest first.
    """

    code: tuple[str, ...]
    tests: tuple[str, ...]


PARTS = {
    "live records": Part(("data/live.py",), ("data/test_live.py",)),
    "examples of streams": Part(("training/streams.py",), ("training/test_streams.py",)),
    "weights of state tokens": Part(("training/weighting.py",), ("training/test_weighting.py",)),
    "slots of streams": Part(("synthetic/live_records.py",), ("synthetic/test_live_records.py",)),
    "scores of streams": Part(
        ("evaluation/streaming.py", "evaluation/live.py"), ("evaluation/test_streaming.py", "evaluation/test_live.py")
    ),
    "xrope": Part(("model/xrope.py",), ("model/test_xrope.py",)),
    "request": Part(
        ("scheduling/request.py",),
        ("scheduling/test_request.py", "scheduling/test_budgets.py", "scheduling/test_scheduler.py"),
    ),
    "cache keys": Part(
        ("sources/files.py:_prompt_key,_medium_keys,digest_of,_versions,_remembered",), ("sources/test_files.py",)
    ),
    "cache": Part(("scheduling/pages.py",), ("scheduling/test_blocks.py",)),
    "step budget": Part(("scheduling/budget.py",), ("device/test_large_frames.py",)),
    "large frame": Part(("device/large_frame.py",), ("device/test_large_frames.py",)),
    "limits": Part(("media/limits.py",), ("media/test_limits.py",)),
    "sizes": Part(("processing/sizes.py",), ("processing/test_sizes.py", "processing/test_golden.py")),
    "sampling": Part(("processing/sampling.py",), ("processing/test_sampling.py", "processing/test_golden.py")),
    "placing": Part(("data/placing.py",), ("data/test_examples.py", "data/test_records.py")),
    "records": Part(("data/records.py",), ("data/test_records.py", "data/test_examples.py")),
    "answer file": Part(("cli/answers.py",), ("cli/test_answer_file.py", "cli/test_run.py")),
    "sampler": Part(("device/sampler.py",), ("device/test_sampler.py",)),
    "keywords": Part(
        ("processing/keywords.py",), ("processing/test_keywords.py", "processing/test_apply_chat_template.py")
    ),
    "addresses": Part(("media/addresses.py",), ("media/test_addresses.py", "media/test_hosts.py")),
    "scheduler": Part(
        ("scheduling/scheduler.py", "scheduling/allocator.py"),
        ("scheduling/test_budgets.py", "scheduling/test_scheduler.py", "device/test_large_frames.py"),
    ),
    "prompt": Part(
        ("processing/prompt.py", "processing/messages.py", "processing/labels.py"),
        ("processing/test_messages.py", "processing/test_golden.py", "processing/test_media_in_prompts.py"),
    ),
    "plan": Part(
        ("processing/plan.py",),
        ("processing/test_golden.py", "processing/test_media_in_prompts.py", "processing/test_times.py"),
    ),
    "packing": Part(("model/packed_batch.py",), ("model/test_packing.py",)),
    "checkpoints": Part(("training/checkpoints.py",), ("training/test_checkpoints.py",)),
    "resuming": Part(
        (
            "training/trainer.py:train,_save_checkpoint,_finite,save_whole,written_whole,finish,last_checkpoint,StopAfter",
            "training/run.py:train",
            "training/options.py:differences,note,_deciding,_noted",
        ),
        (
            "training/test_options.py",
            "training/test_trainer.py",
            "training/test_checkpoints.py",
            "training/test_run.py::test_a_run_that_stopped_goes_on_exactly",
            "training/test_run.py::test_a_run_that_is_through_is_only_written_when_it_is_resumed",
            "training/test_run.py::test_only_chosen_parts_of_the_weights_learn",
            "training/test_run.py::test_weights_are_written_in_the_precision_that_is_asked_for",
            "training/test_run.py::test_evaluation_and_gradient_checkpointing",
            "training/test_run.py::test_what_cannot_be_trained_on_is_refused",
            "training/test_sharding.py::test_two_processes_train_and_go_on_and_the_first_one_speaks",
        ),
    ),
    "server limits": Part(("server/middleware.py",), ("server/test_bodies.py", "server/test_middleware.py")),
}
"""The quickest first."""


# --- mutants ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mutant:
    path: str
    line: int
    old: str
    new: str
    source: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: `{self.old}` → `{self.new}`"


def dropped_call(node: cst.Expr) -> Iterator[cst.CSTNode]:
    """A statement that is nothing but a call."""
    if isinstance(node.value, cst.Call | cst.Await):
        yield cst.Pass()


def negated_condition(node: cst.If | cst.While | cst.IfExp) -> Iterator[cst.CSTNode]:
    """Comparisons, `and`, `or` and `not` have operators of mutmut's."""
    if not isinstance(node.test, cst.Comparison | cst.BooleanOperation | cst.UnaryOperation):
        test = node.test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
        yield node.with_changes(test=cst.UnaryOperation(cst.Not(), test))


def returned_none(node: cst.Return) -> Iterator[cst.CSTNode]:
    constants = ("None", "True", "False")  # mutmut has the other truth.
    if node.value is not None and not (isinstance(node.value, cst.Name) and node.value.value in constants):
        yield node.with_changes(value=cst.Name("None"))


def swapped_extremes(node: cst.Call) -> Iterator[cst.CSTNode]:
    other = {"min": "max", "max": "min", "any": "all", "all": "any"}
    if isinstance(node.func, cst.Name) and node.func.value in other:
        yield node.with_changes(func=cst.Name(other[node.func.value]))


OPERATORS = [
    *mutation_operators,
    (cst.Expr, dropped_call),
    (cst.If | cst.While | cst.IfExp, negated_condition),
    (cst.Return, returned_none),
    (cst.Call, swapped_extremes),
]


def names_a_type(node: cst.CSTNode) -> bool:
    """`Grid = tuple[int, int, int]`."""
    return isinstance(node, cst.Assign) and bool(re.fullmatch(r"([A-Z][a-z]+)+", name_of(node.targets[0].target)))


def name_of(node: cst.CSTNode) -> str:
    return node.value if isinstance(node, cst.Name) else ""


def unmeant(node: cst.CSTNode) -> bool:
    """Arguments that say nothing here: `strict` of a `zip` asserts, and without a GPU there is only one `device`."""
    return isinstance(node, cst.Arg) and node.keyword is not None and node.keyword.value in ("strict", "device")


def only_unmeant(node: cst.CSTNode, changed: cst.CSTNode) -> bool:
    if not isinstance(node, cst.Call) or not isinstance(changed, cst.Call) or not any(map(unmeant, node.args)):
        return False
    plain, other = ([arg for arg in call.args if not unmeant(arg)] for call in (node, changed))
    return len(plain) == len(other) and all(a is b for a, b in zip(plain, other, strict=True))


class Planter(cst.CSTVisitor):
    """Collects (node, replacement) wherever a bug may be planted."""

    METADATA_DEPENDENCIES = (PositionProvider, ParentNodeProvider)

    def __init__(self, names: Iterable[str]) -> None:
        self.names = set(names)
        self.found: list[tuple[int, cst.CSTNode, cst.CSTNode]] = []
        self._raising = 0
        self._meant = 0

    def on_visit(self, node: cst.CSTNode) -> bool:
        # What only says what is meant: annotations, types' names, decorators, assertions, imports.
        if isinstance(node, cst.Annotation | cst.Decorator | cst.Assert | cst.Import | cst.ImportFrom):
            return False
        if unmeant(node) or names_a_type(node):
            return False
        if isinstance(node, cst.Raise):
            self._raising += 1
        if self._named(node):
            self._meant += 1
        # The words of a message are no behaviour; that there is one is.
        words = isinstance(node, cst.BaseString) and self._raising
        if (self._meant or not self.names) and not words:
            for kind, operator in OPERATORS:
                if isinstance(node, kind):
                    line = self.get_metadata(PositionProvider, node).start.line
                    self.found += [
                        (line, node, changed) for changed in operator(node) if not only_unmeant(node, changed)
                    ]
        return not words

    def on_leave(self, node: cst.CSTNode) -> None:
        self._raising -= isinstance(node, cst.Raise)
        self._meant -= self._named(node)

    def _named(self, node: cst.CSTNode) -> bool:
        return isinstance(node, cst.FunctionDef | cst.ClassDef) and node.name.value in self.names


def mutants(file: str) -> Iterator[Mutant]:
    path, _, names = file.partition(":")
    source = (ROOT / "src/mossvl" / path).read_text()
    wrapper = MetadataWrapper(cst.parse_module(source), unsafe_skip_copy=True)
    planter = Planter(names.split(",") if names else ())
    wrapper.visit(planter)
    seen = {ast.dump(ast.parse(source))}
    for line, node, changed in planter.found:
        text = wrapper.module.deep_replace(node, changed).code
        with contextlib.suppress(SyntaxError):
            if (tree := ast.dump(ast.parse(text))) not in seen:
                seen.add(tree)
                before, after = ([*one.splitlines(), ""] for one in (source, text))
                first = next(number for number, (a, b) in enumerate(zip(before, after, strict=False)) if a != b)
                yield Mutant(path, line, before[first].strip(), after[first].strip(), text)


# --- trying ----------------------------------------------------------------------------------------------------------


class Quietly:
    """A plugin for pytest: the same examples in every run, and no search for the simplest one that fails."""

    def pytest_configure(self) -> None:
        from hypothesis import Phase, settings

        phases = (Phase.explicit, Phase.generate)
        settings.register_profile("mutation", settings.default, derandomize=True, database=None, phases=phases)
        settings.load_profile("mutation")


def serve(package: Path, tests: list[str]) -> None:
    """In a process of its own: fork for every line that comes in, run the tests there, say how that ended."""
    sys.path.insert(0, str(package))
    import pytest

    names, log = package / "names", package / "log"
    options = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "--tb=short", "--no-header", "-W", "ignore"]
    for line in sys.stdin:
        limit = float(line)
        child = os.fork()
        if not child:
            os.setsid()
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            code = pytest.main([*options, *tests], [Quietly()])
            if not sys.dont_write_bytecode:
                own = ("mossvl", "tests", "conftest")
                names.write_text("\n".join(one for one in list(sys.modules) if one.split(".")[0] not in own))
            os._exit(code)
        code = wait(child, limit)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        if code is None:
            os.waitpid(child, 0)
        if names.exists():  # What the first run imported, the others need not; nor do they write what they compile.
            for name in names.read_text().split():
                with contextlib.suppress(Exception):
                    importlib.import_module(name)
            names.unlink()
            gc.freeze()
            sys.dont_write_bytecode = True
            os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        print("timeout" if code is None else code, flush=True)


def wait(child: int, limit: float) -> int | None:
    """How a process ended; None if it did not within so many seconds."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    return None


class Server:
    """A process that forks, and its copy of the package."""

    def __init__(self, folder: Path, part: Part) -> None:
        self.package = folder / "mossvl"
        self.folder = folder
        shutil.copytree(ROOT / "src/mossvl", self.package)
        subprocess.run([sys.executable, "-m", "compileall", "-q", "--invalidation-mode=unchecked-hash", folder])
        tests = [f"tests/{one}" for one in part.tests]
        command = [sys.executable, __file__, "--serve", str(folder), *tests]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes)
        self.try_tests(600)
        for file in part.code:  # The compiled files of all others are taken as they are.
            path = self.package / file.partition(":")[0]
            for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):
                compiled.unlink()

    def try_tests(self, limit: float) -> str:
        print(limit, file=self.process.stdin, flush=True)
        return self.process.stdout.readline().strip()

    def noticed(self, mutant: Mutant, limit: float) -> bool:
        path = self.package / mutant.path
        original = path.read_text()
        path.write_text(mutant.source)
        try:
            return self.try_tests(limit) != "0"
        finally:
            path.write_text(original)


def run(name: str, jobs: int, sample: int, seed: int, lines: set[int]) -> None:
    part = PARTS[name]
    found = [mutant for file in part.code for mutant in mutants(file) if not lines or mutant.line in lines]
    chosen = random.Random(seed).sample(range(len(found)), min(sample, len(found)))
    todo = [found[number] for number in sorted(chosen)]
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mossvl-mutation-") as folder:
        servers = [Server(Path(folder) / str(number), part) for number in range(jobs)]
        free: SimpleQueue[Server] = SimpleQueue()
        for server in servers:
            start = time.monotonic()
            if server.try_tests(600) != "0":
                sys.exit(f"{name}: the tests fail as it is\n{(server.folder / 'log').read_text()}")
            took = time.monotonic() - start
            free.put(server)
        limit = 5 + 5 * took
        print(f"{name}: {len(todo)} of {len(found)} mutants, {took:.1f} s for all tests", flush=True)

        def attempt(mutant: Mutant) -> bool:
            server = free.get()
            try:
                return server.noticed(mutant, limit)
            finally:
                free.put(server)

        with ThreadPoolExecutor(jobs) as pool:
            killed = 0
            for mutant, noticed in zip(todo, pool.map(attempt, todo), strict=True):
                killed += noticed
                if not noticed:
                    print("survived", mutant, flush=True)
        for server in servers:
            server.process.stdin.close()
            server.process.wait()
    minutes = (time.monotonic() - began) / 60
    tried, share = f"{len(todo)} of {len(found)}", f"{100 * killed / len(todo):.1f} %"
    print(f"| {name} | {tried} | {killed} | {share} | {minutes:.0f} min |", flush=True)


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        serve(Path(sys.argv[2]), sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--sample", type=int, default=150, help="most mutants of a part")
    parser.add_argument("--seed", type=int, default=0, help="another one tries others")
    parser.add_argument("--lines", type=int, nargs="*", default=[], help="only mutants of these lines")
    options = parser.parse_args()
    for name in options.parts or PARTS:
        run(name, options.jobs, options.sample, options.seed, set(options.lines))


if __name__ == "__main__":
    main()
