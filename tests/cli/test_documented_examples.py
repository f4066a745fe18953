"""The examples of README.md and docs/command-line.md work as they are written there."""

import json
import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_example_runs(command, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs/command-line.md").read_text().replace("/tmp/", f"{tmp_path}/")
    for name, content in re.findall(r"cat > (\S+) <<'END'\n(.*?)END\n", page, re.DOTALL):
        Path(name).write_text(content)
    lines = [line for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    examples = [shlex.split(line)[1:] for line in lines if line.startswith("mossvl ")]
    assert {arguments[0] for arguments in examples} == {"ask", "run", "frames", "inspect", "quantize", "doctor"}
    for arguments in examples:
        device = [] if arguments[0] in ("frames", "inspect", "doctor") else ["--device", "cpu"]
        result = command(*arguments, *device)
        assert result.exit_code == 0, (arguments, result.stderr)
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert {one["index"]: one["text"] for one in answers} == {0: "MOSS", 1: "right", 2: "no"}


def test_the_first_command_is_answered_as_the_readme_says(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    readme = (ROOT / "README.md").read_text()
    line = re.search(r"```sh\n\./run mossvl (.*)", readme).group(1)
    answers = re.search(r"```\n(.*?)```", readme[readme.index(line) :].split("```", 1)[1], re.DOTALL).group(1)
    result = command(*shlex.split(line), "--device", "cpu")
    assert result.stdout == answers
