"""The file of answers: whole lines, each query once, nothing lost."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mossvl.cli.answers import AnswerFile
from mossvl.data.records import Line
from mossvl.errors import DataError, InputError

LINES = [Line(index, index + 1, b"%d" % index) for index in range(6)]


def answer(line, **more):
    return {"index": line.index, "query": line.digest, "text": f"ä {line.index}", **more}


def write(path, lines=LINES, **options):
    """Answer what is not answered yet, and tell which that were."""
    with AnswerFile(path, **options) as answers:
        answers.begin()
        asked = [line for line in lines if not answers.has(line)]
        for line in asked:
            answers.write(answer(line))
    return [line.index for line in asked]


def indices(path):
    return [json.loads(line)["index"] for line in path.read_bytes().splitlines()]


@given(st.data())
def test_cut_anywhere_a_file_is_completed_without_loss_or_repetition(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("cut") / "answers.jsonl"
    order = data.draw(st.permutations(LINES))
    write(path, order)
    whole = path.read_bytes()
    kept = data.draw(st.integers(0, len(whole)))
    os.truncate(path, kept)
    complete = whole[:kept].count(b"\n")
    asked = write(path, resume=True)
    assert len(asked) == len(LINES) - complete
    assert sorted(path.read_bytes().splitlines()) == sorted(whole.splitlines())


def test_a_file_with_answers_is_not_overwritten_by_accident(tmp_path):
    path = tmp_path / "answers.jsonl"
    write(path)
    before = path.read_bytes()
    with pytest.raises(InputError, match="--resume"):
        AnswerFile(path)
    AnswerFile(path, overwrite=True).close()
    assert path.read_bytes() == before  # Until the first answer can be given.
    assert write(path, LINES[:2], overwrite=True) == [0, 1]
    assert indices(path) == [0, 1]


def test_errors_are_repeated_only_when_asked_for(tmp_path):
    path = tmp_path / "answers.jsonl"
    with AnswerFile(path) as answers:
        for line in LINES:
            answers.write(answer(line, error="no") if line.index % 2 else answer(line))
        assert answers.failed == 3
    path.chmod(0o640)
    assert write(path, resume=True) == []
    assert sorted(indices(path)) == [0, 1, 2, 3, 4, 5]
    for retry, counted in ((False, (6, 3)), (True, (3, 3))):
        with AnswerFile(path, resume=True, retry_errors=retry) as answers:
            assert (answers.answered, answers.failed) == counted
    assert write(path, resume=True, retry_errors=True) == [1, 3, 5]
    assert sorted(indices(path)) == [0, 1, 2, 3, 4, 5]
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["answers.jsonl"]


def test_errors_stay_where_the_file_without_them_cannot_take_its_place(tmp_path, monkeypatch):
    path, moved = tmp_path / "answers.jsonl", []
    with AnswerFile(path) as answers:
        answers.write(answer(LINES[0], error="no"))
    before = path.read_bytes()

    def refuse(source, target):
        moved.append((Path(source), Path(target)))
        raise OSError("injected")

    monkeypatch.setattr(os, "replace", refuse)
    with AnswerFile(path, resume=True, retry_errors=True) as answers, pytest.raises(OSError, match="injected"):
        answers.begin()
    ((source, target),) = moved
    assert source.parent == tmp_path and source.match(".answers.jsonl.*.part") and target == path
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["answers.jsonl"]


def test_answers_are_written_as_they_are_read(tmp_path):
    path = tmp_path / "answers.jsonl"
    write(path, LINES[:2])
    assert path.read_text("utf-8").count("ä") == 2


def test_another_input_file_is_noticed(tmp_path):
    path = tmp_path / "answers.jsonl"
    write(path)
    other = [*LINES[:4], Line(4, 9, b"something else"), LINES[5]]
    with pytest.raises(DataError, match="line 9"):
        write(path, other, resume=True)
    with AnswerFile(path, resume=True) as answers, pytest.raises(DataError, match="answer 5, but there are only 3"):
        answers.check_end(3)


@pytest.mark.parametrize(
    "line",
    [
        *("[]", "{}", "x", '{"index": -1, "query": "aa"}', '{"index": 1e3, "query": "aa"}', '{"index": 1, "query": 1}'),
        '{"index": 268435456, "query": "aa"}',
        '{"index": 1, "query": "10000000000000000"}',
    ],
)
def test_a_file_of_something_else_is_not_continued(tmp_path, line):
    path = tmp_path / "answers.jsonl"
    write(path, LINES[:1])
    with path.open("a") as file:
        file.write(line + "\n")
    before = path.read_bytes()
    with pytest.raises(DataError, match="line 2"):
        AnswerFile(path, resume=True)
    assert path.read_bytes() == before


def test_two_runs_cannot_write_one_file(tmp_path):
    path = tmp_path / "answers.jsonl"
    with AnswerFile(path), pytest.raises(InputError, match="another run"):
        AnswerFile(path)


def test_a_full_disk_leaves_no_half_line(tmp_path, monkeypatch):
    path = tmp_path / "answers.jsonl"
    with AnswerFile(path) as answers:
        answers.begin()
        answers.write(answer(LINES[0]))
        answers.write(answer(LINES[1]))
        whole = answers._file.write

        class Full:
            def write(self, data):
                return whole(data[:7])

            def __getattr__(self, name):
                return getattr(file, name)

        file, answers._file = answers._file, Full()
        with pytest.raises(OSError, match="disk may be full"):
            answers.write(answer(LINES[2]))
        file.close()
    assert indices(path) == [0, 1]


def test_half_a_surrogate_pair_can_be_written(tmp_path):
    path = tmp_path / "answers.jsonl"
    with AnswerFile(path) as answers:
        answers.begin()
        answers.write({**answer(LINES[0]), "id": "\ud800 ä"})
    assert json.loads(path.read_text())["id"] == "\ud800 ä"


def test_what_is_no_regular_file_is_only_written_to():
    with AnswerFile(Path("/dev/null")) as answers:
        answers.begin()
        answers.write(answer(LINES[0]))
