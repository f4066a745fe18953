"""`mossvl doctor`, and the completion of commands by shells."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

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


@pytest.mark.parametrize(
    ("gigabytes", "flags"),
    [(64, " photo.jpg"), (32, " --dtype bfloat16 photo.jpg"), (16, " -q int8 photo.jpg"), (8, None)],
)
def test_the_command_for_the_published_model_is_one_that_fits(command, monkeypatch, gigabytes, flags):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(doctor, "memory", lambda: gigabytes * 2**30)
    told = findings(command("doctor", "--json"))["command"]
    if flags is None:
        assert (told["found"], told["state"]) == ("none", "missing") and "too little memory" in told["note"]
    else:
        assert told["found"].startswith(f"mossvl ask -c {doctor.PUBLISHED}{flags}") and told["state"] == "ok"
        assert f"\n    {told['found']}\n" in command("doctor", env={"COLUMNS": "60"}).stdout


def test_a_disk_without_room_for_a_checkpoint_is_told(command, monkeypatch):
    monkeypatch.setattr(doctor, "DOWNLOAD_BYTES", float("inf"))
    told = findings(command("doctor", "--json"))["cache"]
    assert told["state"] == "missing" and "too little for a checkpoint" in told["note"]


@pytest.mark.parametrize(("capability", "flags"), [((8, 9), " -q fp8 photo.jpg"), ((8, 6), " -q int4 photo.jpg")])
def test_a_card_too_old_for_fp8_is_not_asked_for_it(monkeypatch, capability, flags):
    card = SimpleNamespace(total_memory=18 * 2**30)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda number: card)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda number: capability)
    told = {one.name: one for one in doctor.sizes()}
    assert told["command"].found.startswith(f"mossvl ask -c {doctor.PUBLISHED}{flags}")
