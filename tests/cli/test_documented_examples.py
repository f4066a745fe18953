"""The examples of docs/command-line.md work as they are written there."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_example_runs(command, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs/command-line.md").read_text().replace("/tmp/", f"{tmp_path}/")
    for name, content in re.findall(r"cat > (\S+) <<'END'\n(.*?)END\n", page, re.DOTALL):
        Path(name).write_text(content)
    lines = [line for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    examples = [shlex.split(line)[1:] for line in lines if line.startswith("mossvl ")]
    assert {arguments[0] for arguments in examples} == {"ask", "run", "frames", "inspect"}
    for arguments in examples:
        result = command(*arguments, env={"MOSSVL_CHECKPOINT": str(checkpoint)})
        assert result.exit_code == 0, (arguments, result.stderr)
