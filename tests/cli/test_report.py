"""`mossvl report` prints one table of results."""

import json
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "evaluation" / "results"


def test_a_table_is_printed(command):
    told = command("report", RESULTS)
    assert told.exit_code == 0
    assert told.stdout.splitlines()[0].startswith("| benchmark | n | score | 95 % interval |")
    assert "| MMStar | 40 | 75.0 |" in told.stdout


def test_json_and_csv_are_for_programs(command):
    (row,) = json.loads(command("report", RESULTS, "--json").stdout)
    assert row["benchmark"] == "MMStar" and row["score"] == 75
    assert command("report", RESULTS, "--csv").stdout.splitlines()[1].startswith("MMStar,VLMEvalKit,MMStar,")


def test_both_forms_at_once_are_refused(command):
    told = command("report", RESULTS, "--json", "--csv")
    assert told.exit_code == 2 and "give one of them" in told.stderr


def test_a_file_that_is_none_is_told_in_one_line(command, tmp_path):
    (tmp_path / "20260101_000000_results.json").write_text("{")
    told = command("report", tmp_path)
    assert told.exit_code == 2 and told.stderr.count("\n") == 1 and "20260101_000000_results.json" in told.stderr


def test_a_file_that_cannot_be_read_is_left_out_and_told_of(command, tmp_path):
    for name, content in (("20260101_000000_results.json", "{"), ("m_MMStar_score.json", "["), ("m_AI2D_acc.csv", "a")):
        (tmp_path / name).write_text(content)
    told = command("report", tmp_path, RESULTS)
    assert told.exit_code == 1 and "| MMStar | 40 | 75.0 |" in told.stdout
    left_out = [line for line in told.stderr.splitlines() if line.startswith(f"mossvl: left out: {tmp_path}")]
    assert len(left_out) == told.stderr.count("\n") == 3


def test_what_is_not_there_or_holds_no_results_is_told_with_what_was_expected(command, tmp_path):
    for given in (tmp_path / "none", tmp_path):
        told = command("report", given)
        assert told.exit_code == 2 and told.stderr.count("\n") == 1
        assert str(given) in told.stderr and "lmms-eval or VLMEvalKit" in told.stderr
