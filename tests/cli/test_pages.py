"""The pages of the site do what they say (others are tested beside what they are about).

The blocks of a page run in order, in a folder that holds `examples`, with mossvl-tiny; a ```text block is what the
block before it prints. What cannot run here says why, by a comment above its block: <!-- not run: reason -->.
"""

import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
TO_FOLLOW = sorted(page for folder in ("tutorial", "howto", "explanation") for page in (DOCS / folder).glob("*.md"))
PAGES = [*TO_FOLLOW, *(DOCS / f"{name}.md" for name in ("evaluation", "media", "quantization", "tiny", "training"))]
BLOCK = re.compile(r"(<!-- not run: [^\n]+ -->\n)?^```(sh|python|text)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SERVER = "http://127.0.0.1:8000"
PATIENCE = 600
IN_TESTS = {"--epochs 10": "--max-steps 2", "count=60": "count=6"}
"""What would take long, and changes no behaviour that a page shows."""


SIMPLE = re.compile(r"(mossvl (ask|run|frames|watch|train|merge) ([^|&;<>$`\\\n]|\\\n)+\n)+")
"""Commands that need no shell run in this process, which has PyTorch already."""


def shell(code: str, folder: Path) -> str:
    """What a block of commands prints; each must succeed."""
    own = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code],
        cwd=folder,
        env=os.environ | own | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, f"{code}\n{done.stdout}{done.stderr}"
    return done.stdout


def commanded(code: str, command) -> str:
    """What the commands of a block print, one a line."""
    printed = ""
    for line in code.replace("\\\n", " ").splitlines():
        _, name, *arguments = shlex.split(line)
        device = ["--device", "cpu"] if name in ("ask", "run", "watch", "train") else []
        result = command(name, *arguments, *device)
        assert result.exit_code == 0, f"{line}\n{result.stdout}{result.stderr}"
        printed += result.stdout
    return printed


def blocks_of(page: Path) -> list[tuple[str, str, str]]:
    """(marker, language, code) of each block."""
    return BLOCK.findall(page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_blocks_run_in_order_and_print_what_is_shown(page, command, tmp_path, monkeypatch, capsys, request):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    names: dict[str, object] = {}
    printed = None
    for marker, language, code in blocks_of(page):
        if language == "text":
            assert printed is None or [line.rstrip() for line in printed.splitlines()] == code.splitlines()
            continue
        printed = None
        if marker:
            continue
        if SERVER in code:
            code = code.replace(SERVER, request.getfixturevalue("server").url)
        code = code.replace("./run ", "")
        for slow, quick in IN_TESTS.items():
            code = code.replace(slow, quick)
        if language == "sh":
            printed = commanded(code, command) if SIMPLE.fullmatch(code) else shell(code, tmp_path)
        else:
            capsys.readouterr()
            exec(compile(code, str(page), "exec"), names)
            printed = capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_every_block_is_seen(page):
    """A block of another language, or one that is indented, would neither run nor be said not to."""
    fences = re.findall(r"^ *```(\w*)", page.read_text(), re.MULTILINE)
    known = [language for language in fences if language not in ("", "json", "mermaid")]
    assert len(known) == len(blocks_of(page))


def test_figures_are_those_of_the_code(tmp_path, monkeypatch):
    figures = runpy.run_path(str(DOCS / "figures.py"))
    monkeypatch.setitem(figures["drawing"].__globals__, "FOLDER", tmp_path)
    figures["main"]()
    drawn = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert drawn == {file.name: file.read_text() for file in (DOCS / "explanation").glob("*.svg")}


def test_every_page_has_its_place_in_the_site():
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    assert [page for page in TO_FOLLOW if str(page.relative_to(DOCS)) not in navigation] == []
