"""`mossvl run` with tables and folders: as input, and Parquet as output."""

import json
import shutil

import pytest

parquet = pytest.importorskip("pyarrow.parquet")
pyarrow = pytest.importorskip("pyarrow")

SHORT = {"max_new_tokens": 4}
QUERIES = [{"id": number, "prompt": f"hello {number}", "generate_kwargs": SHORT} for number in range(5)]


@pytest.fixture
def run(command, checkpoint, tmp_path):
    """Run with these arguments → its result, and the answers by index."""

    def run(queries, *arguments, output="answers.jsonl"):
        path = tmp_path / output
        result = command("run", queries, "-o", path, "-c", checkpoint, "--device", "cpu", *arguments)
        if not path.exists():
            return result, {}
        if result.exit_code == 2:
            return result, {}
        lines = path.read_text().splitlines() if path.is_file() else []
        rows = [json.loads(line) for line in lines] or parquet_rows(path)
        assert len({row["index"] for row in rows}) == len(rows)
        return result, {row["index"]: row for row in rows}

    return run


def parquet_rows(path):
    return [row for part in sorted(path.glob("*.parquet")) for row in parquet.read_table(part).to_pylist()]


@pytest.fixture
def lines(tmp_path):
    path = tmp_path / "queries.jsonl"
    path.write_text("".join(json.dumps(query) + "\n" for query in QUERIES))
    return path


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "queries.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(QUERIES), path, row_group_size=2)
    return path


@pytest.fixture
def clips(tmp_path, media):
    folder = tmp_path / "clips"
    (folder / "deep").mkdir(parents=True)
    shutil.copy(media / "clip_10fps_6s.mp4", folder / "a.mp4")
    shutil.copy(media / "clip_10fps_6s.mp4", folder / "deep" / "b.MP4")
    (folder / "deep" / "broken.mkv").write_bytes(b"none")
    (folder / "notes.txt").write_text("no video")
    return folder


def told(answers):
    return {index: {name: one for name, one in row.items() if name != "query"} for index, row in answers.items()}


def test_rows_of_a_table_are_answered_as_lines_are(run, lines, table, tmp_path):
    _, by_line = run(lines)
    result, by_row = run(table, output="others.jsonl")
    assert result.exit_code == 0 and len(by_row) == len(QUERIES)
    assert told(by_row) == told(by_line)
    rows = [{**QUERIES[0], "source": "a lake", "imagess": None}, {"prompt": "x", "imagess": ["a.png"]}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "wider.parquet")
    _, wider = run(tmp_path / "wider.parquet", output="wider.jsonl")
    assert wider[0]["text"] == by_line[0]["text"] and "did you mean 'images'" in wider[1]["error"]
    folder = tmp_path / "folder"
    folder.mkdir()
    shutil.move(table, folder / "b.parquet")
    shutil.move(lines, folder / "a.jsonl")
    _, of_folder = run(folder, output="more.jsonl")
    assert [of_folder[index]["text"] for index in range(10)] == [by_line[index % 5]["text"] for index in range(10)]


def test_every_video_of_a_folder_is_asked_about(run, clips, llm):
    result, answers = run(clips, "--prompt", "What happens?", "--max-new-tokens", 4)
    assert [answers[index]["id"] for index in range(3)] == ["a.mp4", "deep/b.MP4", "deep/broken.mkv"]
    alone = llm.generate({"prompt": "What happens?", "videos": [str(clips / "a.mp4")], "generate_kwargs": SHORT})
    assert answers[0]["text"] == answers[1]["text"] == alone.text
    assert result.exit_code == 1 and "error" in answers[2]
    result, _ = run(clips, "--prompt", "Another?", "--resume")
    assert result.exit_code == 2 and "answer 0 is to another query than a.mp4" in result.stderr


def test_answers_as_parquet_are_those_of_lines_and_a_run_goes_on(run, lines):
    _, as_lines = run(lines)
    result, as_table = run(lines, output="answers.parquet")
    assert result.exit_code == 0
    assert as_table == {index: {**row, "id": str(row["id"])} for index, row in as_lines.items()}
    more = lines.with_name("more.jsonl")
    more.write_text(lines.read_text() + '{"prompt": "new"}\n{"prompt": 3}\n')
    result, answers = run(more, "--resume", output="answers.parquet")
    assert result.exit_code == 1 and "2 new" in result.stderr and "1 of them errors" in result.stderr
    assert {index: answers[index]["text"] for index in as_table} == {i: row["text"] for i, row in as_table.items()}
    result, _ = run(more, "--resume", output="answers.parquet")
    assert "0 new" in result.stderr
    more.write_text(lines.read_text() + '{"prompt": "new"}\n{"prompt": "right"}\n')
    result, _ = run(more, "--resume", "--retry-errors", output="answers.parquet")
    assert result.exit_code == 0 and "7 answers" in result.stderr and "1 new" in result.stderr


def test_answers_as_parquet_need_a_word_to_go_on_or_begin_anew(run, lines, tmp_path):
    run(lines, output="answers.parquet")
    before = sorted(file.name for file in (tmp_path / "answers.parquet").iterdir())
    result, _ = run(lines, output="answers.parquet")
    assert result.exit_code == 2 and "--resume goes on with them, --overwrite begins anew" in result.stderr
    lines.write_text('{"prompt": "other"}\n')
    result, _ = run(lines, "--resume", output="answers.parquet")
    assert (result.exit_code == 2 and "only 1 queries" in result.stderr) or "another query" in result.stderr
    assert sorted(file.name for file in (tmp_path / "answers.parquet").iterdir()) == before
    result, answers = run(lines, "--overwrite", output="answers.parquet")
    assert result.exit_code == 0 and len(answers) == 1


def test_a_file_that_a_crash_has_cut_off_is_no_answer(run, lines, tmp_path):
    folder = tmp_path / "answers.parquet"
    folder.mkdir()
    (folder / ".part-1-2.parquet").write_bytes(b"PAR1 and then nothing")
    result, answers = run(lines, output="answers.parquet")
    assert result.exit_code == 0 and len(answers) == len(QUERIES)
    assert all(file.name.startswith("part-") for file in folder.iterdir())
    (folder / "part-0-0.parquet").write_bytes(b"none")
    result, _ = run(lines, "--resume", output="answers.parquet")
    assert result.exit_code == 2 and "part-0-0.parquet holds no answers" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["LINES", "--prompt", "What?"], "is no folder of videos"),
        (["EMPTY", "--prompt", "What?"], "holds no video"),
        (["EMPTY"], "holds no file whose name ends with"),
        (["-", "--prompt", "What?"], "write the queries to a file"),
    ],
)
def test_what_is_no_input_is_told_in_one_line(run, lines, tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    names = {"LINES": lines, "EMPTY": tmp_path / "empty"}
    result, answers = run(*(names.get(argument, argument) for argument in arguments))
    assert result.exit_code == 2 and message in result.stderr and answers == {}
    assert len(result.stderr.splitlines()) == 1
