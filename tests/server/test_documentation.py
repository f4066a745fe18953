"""What README.md and docs/serving.md say of the server is so."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from running import PATIENCE

from mossvl.cli.options import ServerFlags
from mossvl.server.schemas.chat import ChatRequest

ROOT = Path(__file__).parents[2]
SERVING = (ROOT / "docs" / "serving.md").read_text()
DEFAULT = "http://127.0.0.1:8000"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
@pytest.mark.parametrize(
    ("page", "path", "answer"),
    [
        ("README.md", "/v1/chat/completions", "MOSS"),
        ("docs/serving.md", "/v1/chat/completions", "2.0 seconds"),
        ("docs/serving.md", "/v1/messages", "MOSS"),
    ],
)
def test_curl_gets_the_right_answer(server, page, path, answer):
    (command,) = [block for block in blocks(page, "sh") if block.startswith("curl") and f"{path} " in block]
    command = command.replace(DEFAULT, server.url)
    printed = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, capture_output=True, timeout=PATIENCE, check=True
    ).stdout
    told = json.loads(printed)
    assert (told["content"][0]["text"] if "content" in told else told["choices"][0]["message"]["content"]) == answer


@pytest.mark.parametrize(
    ("marker", "printed"),
    [
        ("chat.completions.create", "At 0.0 seconds there is a red circle. At 2.0 seconds a blue star appears."),
        ("responses.create", "2.0 seconds right\n"),
        ('completions.create(model="mossvl-tiny", prompt', "[None, -"),
    ],
)
def test_the_python_clients_get_the_right_answers(server, monkeypatch, capsys, marker, printed):
    monkeypatch.chdir(ROOT)
    (code,) = [block for block in blocks("docs/serving.md", "python") if marker in block]
    exec(code.replace(DEFAULT, server.url), {})
    assert capsys.readouterr().out.startswith(printed)


def test_every_flag_is_in_the_documentation_with_its_default():
    for name, flag in ServerFlags.flags.items():
        (written,) = flag.names or (f"--{name.replace('_', '-')}",)
        row = next((line for line in SERVING.splitlines() if line.startswith("| `--") and f"`{written}`" in line), "")
        assert row, written
        default = getattr(ServerFlags.options, name)
        if isinstance(default, int | float) and default and name != "decoders":
            assert f"{default:.12g}" in row


def test_every_field_of_a_chat_request_is_in_the_table_of_its_fields():
    table = SERVING.partition("## A request")[2].partition("Any other key")[0]
    rows = [line.split("|") for line in table.splitlines() if line.startswith("|")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row[1] + row[2])}
    assert set(ChatRequest.model_fields) <= named
