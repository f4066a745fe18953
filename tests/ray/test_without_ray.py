"""What is told where Ray is not installed; these tests run everywhere."""

import subprocess
import sys

HIDDEN = (
    "import importlib.util as util; find = util.find_spec\n"
    "util.find_spec = lambda name, *more: None if name == 'ray' else find(name, *more)\n"
)


def test_the_package_names_the_extra_that_is_missing():
    code = HIDDEN + "import mossvl.ray"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1] == (
        "ImportError: mossvl.ray needs the extra 'ray': pip install '.[ray]' in a clone of mossvl"
    )
