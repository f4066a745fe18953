"""Two processes: weights in pieces learn what whole ones do, and `mossvl train` speaks with one voice."""

import json
import subprocess
import sys
from pathlib import Path


def test_shards_have_the_loss_and_the_gradients_of_the_whole():
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ended = subprocess.run([*launcher, Path(__file__).with_name("sharded.py")], capture_output=True, timeout=300)
    assert ended.returncode == 0, ended.stderr.decode()
    assert ended.stdout.decode().split() == ["plain", "checkpointing", "texts", "mixed"]


def test_two_processes_train_and_go_on_and_the_first_one_speaks(tmp_path):
    data, out = tmp_path / "data.jsonl", tmp_path / "out"
    data.write_text("".join(json.dumps({"prompt": "Who?", "response": f"I, {n}."}) + "\n" for n in range(16)))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "mossvl"]
    options = ["--device", "cpu", "--workers", "0", "--batch", "2", "--rank", "2", "--save-every", "2", "--epochs", "1"]
    command = [*launcher, "train", data, "-o", out, *options]
    for resume in ([], ["--resume"]):
        ended = subprocess.run([*command, *resume], capture_output=True, timeout=300)
        assert ended.returncode == 0, ended.stderr.decode()
        assert ended.stdout.decode().splitlines()[-1] == str(out / "adapter")
        assert ended.stdout.decode().count(str(out / "adapter")) == 1
        assert ended.stderr.decode().count("no checkpoint is named") == 1
    assert {path.name for path in out.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-4"}
