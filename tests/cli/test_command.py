"""The command as a whole: help, version, misuse, start-up."""

import io
import json
import logging
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from golden_cases import MEDIA

import mossvl
from mossvl.cli import main
from mossvl.cli.live_options import LiveFlags
from mossvl.cli.options import GROUPS, EngineFlags, GenerationFlags, LimitFlags, ServerFlags, WeightFlags
from mossvl.cli.train import TrainFlags

CLIP = str(MEDIA / "clip_10fps_6s.mp4")


def test_what_the_package_logs_begins_as_all_its_lines_do(monkeypatch):
    lines = io.StringIO()
    monkeypatch.setattr(logging, "lastResort", logging.StreamHandler(lines))
    monkeypatch.setattr(main, "commands", lambda prog_name: sys.exit(0))
    with pytest.raises(SystemExit):
        main.app()
    for name in ("mossvl.live.record", "elsewhere"):
        logging.lastResort.handle(logging.makeLogRecord({"name": name, "msg": "it ends here"}))
    assert lines.getvalue() == "mossvl: it ends here\nit ends here\n"


def test_version(command):
    assert command("--version").stdout == f"mossvl {mossvl.__version__}\n"


@pytest.mark.parametrize("name", ["ask", "run", "serve", "frames", "inspect", "train", "merge", "bench", "watch"])
def test_every_command_has_help(command, name):
    result = command(name, "--help")
    assert result.exit_code == 0
    assert f"mossvl {name}" in result.stdout


ELSEWHERE = {
    GenerationFlags: {
        "n",
        "logprobs",
        "prompt_logprobs",
        "priority",
        "cache_salt",
    },  # One answer a query, as text; queries are equals.
    LimitFlags: {"sources"},  # Of what one asks about oneself, nothing is kept away.
    WeightFlags: set(EngineFlags.flags),
    EngineFlags: set(WeightFlags.flags),
    LiveFlags: {"tokens_per_slot", "inserted_silence", "lora"},  # What --pace 0 sets, the protocols, and --lora PATH.
    TrainFlags: {"checkpoint", "media_dir"}  # Flags of every command; the rest has a name of its own.
    | {"data", "output", "media", "adapt"},
}
COMMANDS = {EngineFlags: "serve", ServerFlags: "serve", LiveFlags: "watch", TrainFlags: "train"}


@pytest.mark.parametrize("group", [*GROUPS, LiveFlags, TrainFlags])
def test_every_option_has_a_flag(command, group):
    assert set(group.flags) | ELSEWHERE.get(group, set()) == {field.name for field in fields(group.options)}
    shown = command(COMMANDS.get(group, "run"), "--help").stdout
    for option, flag in group.flags.items():
        for names in flag.names or (f"--{option.replace('_', '-')}",):
            assert all(name in shown for name in names.split("/"))


@pytest.mark.parametrize(
    "arguments", [["ask"], ["run"], ["run", "--ray"], ["run", "queries.jsonl"], ["frames"], ["inspect"], ["nothing"]]
)
def test_misuse_exits_with_2_and_says_so_on_stderr(command, arguments):
    result = command(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr


MISUSED = """
ask --temperature warm question
ask CLIP none.png What?
ask CLIP What? -c ./none
ask What? --lora ./none
run none.jsonl -o a.jsonl
run data.jsonl -o none/a.jsonl
run data.jsonl -o a.jsonl --lora a=./none
run data.jsonl -o a.jsonl --media-dir none
watch none.mp4 What?
watch CLIP What? --record none/a.jsonl
replay none.jsonl
inspect none
serve -c ./none
serve --lora a=./none
frames none.mp4
frames CLIP -o none/a.png
frames CLIP -c ./none
train none.jsonl -o out
train data.jsonl -o out --eval-data none.jsonl
train data.jsonl -o out --media-dir none
train data.jsonl -o data.jsonl
merge none -o out
merge . -o out
quantize ./none -o out --to fp8
quantize mossvl-tiny -o . --to fp8
bench media -o none/a.json
bench media --markdown .
bench live -c ./none
"""
"""Commands that name a file or folder that is not there, or not as it should be."""


def test_neither_torch_nor_transformers_is_imported_before_a_mistake_is_told(tmp_path):
    """What `import mossvl` itself brings along is left out here: only the command's own modules are looked at."""
    program = """
import json, sys, types
package = types.ModuleType("mossvl")
package.__path__ = [sys.argv[1]]
sys.modules["mossvl"] = package
from mossvl.cli.main import commands
for arguments in json.loads(sys.argv[2]):
    try:
        commands(arguments)
    except SystemExit as stopped:
        assert stopped.code == 2, arguments
    assert not {"torch", "transformers", "av", "numpy"} & set(sys.modules), arguments
"""
    (tmp_path / "data.jsonl").write_text('{"messages": []}\n')
    misused = [line.replace("CLIP", CLIP).split() for line in MISUSED.strip().splitlines()]
    given = [str(Path(mossvl.__file__).parent), json.dumps(misused)]
    done = subprocess.run(
        [sys.executable, "-c", program, *given], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.glob("out*"))
