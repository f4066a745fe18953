"""Imports point down: from what users hold to what it is made of, never back, and never in a circle.

And no file is so long that it should be two.
"""

import ast
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SOURCE = TESTS.parent / "src/mossvl"
FLOORS = [
    *("version", "errors", "names", "progress", "waits", "ranks", "disk", "malloc", "cores", "environment"),
    *("forking", "importing", "orphans"),
    *("forms", "options", "tools", "media", "quantization", "parallel", "checkpoints"),
    *("processing", "synthetic", "data", "kernels", "model"),
    *("queries", "scheduling", "sources", "adapters", "device", "engine", "live", "offline", "chat"),
    *("registration", "loading", "quantizing", "replicas", "llm", "evaluation", "bench", "training", "tiny"),
    *("server", "ray", "cli"),
]
"""The rooms of the package, from the ground up: a room imports only from those before it."""


@cache
def imports():
    """{module: modules of this package that it imports, wherever in the file}."""
    files = {name_of(path): path for path in SOURCE.rglob("*.py")}
    found = {}
    for name, path in files.items():
        nodes = list(ast.walk(ast.parse(path.read_text())))
        named = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        for node in nodes:
            if isinstance(node, ast.ImportFrom) and node.module:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                named |= (inner & files.keys()) or {node.module}
        found[name] = named
    return found


def name_of(path):
    return ".".join(("mossvl", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")


def room_of(module):
    return module.split(".")[1] if "." in module else ""


def test_every_room_has_its_floor():
    rooms = {room_of(module) for module in imports()} - {"", "__main__"}
    assert rooms == set(FLOORS)


@pytest.mark.parametrize("room", FLOORS)
def test_a_room_imports_only_from_those_below(room):
    below = FLOORS[: FLOORS.index(room)]
    up = {
        (module, imported)
        for module, named in imports().items()
        for imported in named
        if room_of(module) == room and imported.startswith("mossvl") and room_of(imported) not in (room, *below)
    }
    assert not up


def test_no_files_import_each_other_in_a_circle():
    left = {module: {one for one in named if one in imports()} - {module} for module, named in imports().items()}
    while ends := [module for module, named in left.items() if not named & left.keys()]:
        for module in ends:
            del left[module]
    assert not left


@pytest.mark.parametrize("room", ["scheduling", "options", "forms", "queries"])
def test_no_tensors_are_made_where_none_belong(room):
    tree = {module: ast.parse(path.read_text()) for path in SOURCE.glob(f"{room}/*.py") for module in [path.name]}
    guarded = {node for one in tree.values() for node in ast.walk(one) if isinstance(node, ast.If)}
    typing_only = {id(inner) for node in guarded for inner in ast.walk(node) if "TYPE_CHECKING" in ast.dump(node.test)}
    torch = [
        (module, node.lineno)
        for module, one in tree.items()
        for node in ast.walk(one)
        if isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in typing_only
        if "torch" in {alias.name for alias in node.names} or (getattr(node, "module", "") or "").startswith("torch")
    ]
    assert not torch


def test_kernels_know_no_model():
    named = set().union(*(named for module, named in imports().items() if room_of(module) == "kernels"))
    assert {room_of(one) for one in named if one.startswith("mossvl")} == {"kernels", "quantization"}


@pytest.mark.parametrize("folder", [SOURCE, TESTS], ids=["source", "tests"])
def test_no_file_of_the_source_or_of_the_tests_has_more_than_400_lines(folder):
    lengths = {str(path.relative_to(folder)): len(path.read_text().splitlines()) for path in folder.rglob("*.py")}
    assert {name: length for name, length in lengths.items() if length > 400} == {}
