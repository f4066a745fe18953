"""The command, in this process."""

import pytest
from typer.testing import CliRunner

from mossvl.cli.main import commands


@pytest.fixture
def command():
    """`command(*arguments, env=…)` runs the command `mossvl`."""
    return lambda *arguments, env=None: CliRunner().invoke(commands, arguments, env=env, prog_name="mossvl")
