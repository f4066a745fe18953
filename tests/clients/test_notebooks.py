"""The notebooks of `examples` run from the first cell to the last, and show what they promise."""

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="no nbformat; .ci/clients installs it")
nbclient = pytest.importorskip("nbclient", reason="no nbclient; .ci/clients installs it")
EXAMPLES = Path(__file__).parents[2] / "examples"
PATIENCE = 600


def run(name: str) -> list[str]:
    """Run a notebook; return what each of its code cells printed or returned."""
    book = nbformat.read(EXAMPLES / name, as_version=4)
    nbclient.NotebookClient(book, timeout=PATIENCE, resources={"metadata": {"path": str(EXAMPLES)}}).execute()
    return [shown(cell.outputs) for cell in book.cells if cell.cell_type == "code"]


def shown(outputs) -> str:
    told = [one for one in outputs if one.get("name") != "stderr"]
    return "".join(one.get("text") or one.get("data", {}).get("text/plain", "") for one in told)


def test_see_and_ask():
    _, described, asked, when, streamed, chat, formed, _ = run("see_and_ask.ipynb")
    assert "orange" in described and asked.count("?") == 3
    assert when.endswith("2.0 seconds\nThe model saw frames at 0 s 1 s 2 s 3 s 4 s 5 s 6 s\n")
    assert streamed.startswith("At 0.0 seconds there is a red circle.")
    assert chat.splitlines()[:2] == ["right", "2.0 seconds"] and formed in ("'yes'", "'no'")


def test_fine_tune():
    _, record, before, _, after = run("fine_tune.ipynb")
    assert "'shape': " in record
    assert before.splitlines() == ["arrows: 0 of 20 right", "other shapes: 20 of 20 right"]
    arrows, others = (int(line.split(": ")[1].split()[0]) for line in after.splitlines()[-2:])
    assert arrows >= 16 and others >= 16
