"""What must be installed beside the package."""

import subprocess
import sys
import tomllib
from pathlib import Path

import mossvl

PROJECT = Path(__file__).parent.parent


def test_the_oldest_transformers_is_the_one_that_is_installed_for():
    dependencies = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert f"transformers>={mossvl.OLDEST_TRANSFORMERS},<6" in dependencies


def test_an_older_transformers_is_told_with_the_version_that_is_needed():
    code = (
        "import importlib.metadata as metadata; real = metadata.version\n"
        "metadata.version = lambda name: '5.11.3' if name == 'transformers' else real(name)\n"
        "import mossvl"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.returncode != 0
    assert "ImportError: mossvl needs transformers 5.12 or newer, but 5.11.3 is installed" in run.stderr
