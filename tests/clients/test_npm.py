"""Clients for JavaScript: OpenAI's, and Vercel's AI SDK."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from running import PATIENCE

MODULES = Path(sys.prefix) / "npm" / "node_modules"
"""Where `.ci/clients` installs the packages of package.json."""


@pytest.fixture
def run(base_url, key, sign):
    """Runs a script, and returns what it prints."""

    def run(script: str, package: str, *arguments: str) -> dict:
        node = shutil.which("node")
        if node is None or not (MODULES / package).is_dir():
            pytest.skip(f"no node, or no {package} of npm; .ci/clients installs it where npm is")
        command = [node, str(Path(__file__).with_name(script)), base_url, key, sign, *arguments]
        environment = os.environ | {"NODE_PATH": str(MODULES)}
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def is_sky(given) -> bool:
    return given in ({"sky": "clear"}, {"sky": "cloudy"})


def test_openais_client_gets_answers_streams_calls_and_json(run):
    found = run("openai.cjs", "openai")
    assert found["answer"] == found["streamed"] == "MOSS"
    assert is_sky(json.loads(found["formed"]))
    for call in (found["called"], found["final"]):
        assert call["name"] == "weather" and is_sky(json.loads(call["arguments"]))
    assert found["reason"] == "tool_calls"


@pytest.mark.parametrize("provider", ["openai-compatible", "openai", "anthropic"])
def test_vercels_ai_gets_answers_streams_calls_and_objects(run, provider):
    found = run("ai.cjs", f"@ai-sdk/{provider}", provider)
    assert found["answer"] == found["streamed"] == "MOSS" and found["again"]
    assert len(found["steps"]) == 2 and all(is_sky(call) for step in found["steps"] for call in step)
    assert found["calls"] and all(map(is_sky, found["calls"]))
    assert is_sky(found["object"])
