"""Uses the installed package as its users do, with nothing but what its wheel holds.

python -I .ci/installed.py alone    without extras: questions are answered
python -I .ci/installed.py serve    with the extra `serve`: the server answers, and shows its page
"""

import json
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import mossvl
from mossvl.server.samples import FOLDER, SAMPLES

COMMAND = Path(sys.executable).parent / "mossvl"
PACKAGE = Path(mossvl.__file__).parent


def told(*arguments: str, fails: bool = False) -> str:
    """What a command prints."""
    done = subprocess.run([COMMAND, *arguments], capture_output=True, text=True, timeout=300)
    if (done.returncode != 0) != fails:
        sys.exit(f"mossvl {' '.join(arguments)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stderr if fails else done.stdout


def expect(found: object, expected: object) -> None:
    if found != expected:
        sys.exit(f"expected {expected!r}, but found {found!r}")


def alone() -> None:
    expect(PACKAGE.is_relative_to(sys.prefix), True)
    expect(told("--version"), f"mossvl {mossvl.__version__}\n")
    star = FOLDER / SAMPLES[0]["file"]
    expect(told("ask", str(star), "When does the blue star appear?"), "2.0 seconds\n")
    with mossvl.MossVL() as llm:
        result = llm.generate({"prompt": "Which way does the red circle move?", "videos": [str(star)]})
    expect(result.text, "right")
    expect("extra 'serve'" in told("serve", fails=True), True)


def serve() -> None:
    server = subprocess.Popen([COMMAND, "serve", "--port", "0"], stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr
        address = ""
        for line in server.stderr:
            address = next(iter(re.findall(r"http://127\.0\.0\.1:\d+", line)), address)
            if "ready" in line:
                break
        else:
            sys.exit("the server has ended before it was ready")
        with urllib.request.urlopen(f"{address}/", timeout=60) as page:
            expect("<title>" in page.read().decode(), True)
        question = json.dumps({"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}).encode()
        asked = urllib.request.Request(
            f"{address}/v1/chat/completions", question, headers={"content-type": "application/json"}
        )
        with urllib.request.urlopen(asked, timeout=60) as answer:
            expect(json.load(answer)["mossvl"].keys() >= {"timings"}, True)
    finally:
        server.terminate()
    expect(server.wait(60), 0)


{"alone": alone, "serve": serve}[sys.argv[1]]()
print(f"mossvl {mossvl.__version__} works ({sys.argv[1]})")
