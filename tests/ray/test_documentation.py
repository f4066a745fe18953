"""The Python of docs/ray.md runs as it is written there."""

import re
from pathlib import Path

import pytest

pytest.importorskip("ray.data", reason="no Ray; .ci/ray installs it")

ROOT = Path(__file__).parents[2]


def test_the_example_of_datasets_prints_what_is_written_and_what_is_missing(cluster, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/ray.md").read_text(), re.DOTALL)
    code = code.replace("examples/", f"{ROOT}/examples/")  # The cluster's processes are in other folders.
    exec(code, {"__name__": "example"})
    lines = capsys.readouterr().out.splitlines()
    told = dict(line.split(" ", 1) for line in lines if line.startswith(("sign", "none")))
    assert told["sign"] == "MOSS"
    assert "examples/none.png: no such file" in told["none"]
