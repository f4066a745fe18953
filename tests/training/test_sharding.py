"""Weights in pieces on two processes learn what whole ones do; examples/fsdp2.yaml names the pieces."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("argument", ["plain", "checkpointing"])
def test_shards_have_the_loss_and_the_gradients_of_the_whole(argument):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ended = subprocess.run(
        [*launcher, Path(__file__).with_name("sharded.py"), argument], capture_output=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr.decode()
