"""`mossvl doctor`, and the completion of commands by shells."""

import json
import os
import subprocess
import sys

import pytest

from mossvl.cli import doctor


def findings(result):
    return {one["name"]: one for one in json.loads(result.stdout)["findings"]}


def test_every_part_of_the_machine_is_told_and_nothing_is_wrong(command):
    result = command("doctor", "--json")
    found = findings(result)
    assert result.exit_code == 0 and not [one for one in found.values() if one["state"] == "wrong"]
    assert {"mossvl", "torch", "FFmpeg", "processor", "memory", "device", "serve", "cache"} <= set(found)
    assert [one for one in found.values() if one["group"] == "MOSS-VL (11B)"]
    assert found["torch"]["found"] == doctor.version_of("torch")
    assert found["serve"] | {"note": ""} == {
        "group": "extras", "name": "serve", "found": "installed", "state": "ok", "note": "",
    }  # fmt: skip


def test_the_table_has_a_mark_for_each_finding(command):
    told = command("doctor").stdout
    assert "✓    torch" in told and "MOSS-VL (11B)" in told and told.endswith("Nothing is wrong.\n")


@pytest.mark.parametrize(
    ("requirement", "told"),
    [("no-such-package>=3", "no-such-package>=3 (not installed)"), ("pytest<1", "pytest<1 (")],
    ids=["missing", "too new"],
)
def test_a_requirement_that_is_not_met_is_wrong(command, monkeypatch, requirement, told):
    monkeypatch.setattr(doctor, "declared", lambda: [requirement, 'other-package; extra == "dev"'])
    result = command("doctor", "--json")
    assert result.exit_code == 1
    one = findings(result)["required packages"]
    assert one["state"] == "wrong" and one["found"].startswith(told) and "other-package" not in one["found"]


def test_an_extra_without_its_packages_says_how_to_install_it(command, monkeypatch):
    monkeypatch.setattr(doctor, "declared", lambda: ["pytest", 'no-such-package; extra == "serve"'])
    result = command("doctor", "--json")
    one = findings(result)["serve"]
    assert result.exit_code == 0 and one["state"] == "missing"
    assert one["note"] == "for mossvl serve: pip install 'mossvl[serve]'"


def test_what_cannot_be_looked_at_is_told_and_the_rest_is_too(command, monkeypatch):
    def broken():
        raise OSError("the disk is gone")

    monkeypatch.setattr(doctor, "memory", broken)
    result = command("doctor", "--json")
    found = findings(result)
    assert result.exit_code == 1 and found["error"]["found"] == "OSError: the disk is gone"
    assert {"torch", "cache", "serve"} <= set(found)


@pytest.mark.parametrize(("typed", "completed"), [("doc", "doctor"), ("ask --max-new", "--max-new-tokens")])
def test_shells_complete_commands_and_flags(typed, completed):
    words = f"mossvl {typed}"
    environment = os.environ | {
        "_MOSSVL_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" ")),
    }  # fmt: skip
    program = "from mossvl.cli.main import app; app()"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert completed in done.stdout.split(), done.stderr
