"""`mossvl run`, as long as it lasts; what happens when it is stopped is in test_stopping.py."""

import json
import shutil

import pytest

QUERIES = [
    {"id": "first", "prompt": "What is this?", "images": ["small.png"], "generate_kwargs": {"max_new_tokens": 3}},
    {"prompt": "hello"},
    {"conversations": [{"from": "human", "value": "<image> or <video>?"}, {"from": "gpt", "value": "Yes."}]}
    | {"images": ["gray.png"], "videos": ["clip_10fps_6s.mp4"], "media_kwargs": {"max_frames": 2}},
    {"messages": [{"role": "user", "content": "Who?"}], "system_prompt": "You are brief."},
]
BAD = ["not json", {"prompt": "x", "imagess": []}, {"prompt": "x", "images": ["none.png"]}, {}, {"prompt": 3}]


@pytest.fixture
def folder(tmp_path, media):
    for name in ("small.png", "gray.png", "clip_10fps_6s.mp4"):
        shutil.copy(media / name, tmp_path)
    return tmp_path


@pytest.fixture
def write(folder):
    def write(queries, name="queries.jsonl"):
        path = folder / name
        lines = [query if isinstance(query, str) else json.dumps(query) for query in queries]
        path.write_text("".join(line + "\n" for line in lines))
        return path

    return write


@pytest.fixture
def run(command, checkpoint, folder):
    """Run with these arguments → its result, and the answers by index."""

    def run(queries, *arguments, **kwargs):
        output = folder / "answers.jsonl"
        result = command("run", queries, "-o", output, "-c", checkpoint, "--max-new-tokens", 5, *arguments, **kwargs)
        answers = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
        return result, {answer["index"]: answer for answer in answers}

    return run


def test_every_query_is_answered_as_if_it_were_alone(run, write):
    result, answers = run(write(QUERIES), "--batch-size", 3)
    assert (result.exit_code, result.stdout) == (0, "")
    assert sorted(answers) == [0, 1, 2, 3]
    assert answers[0]["id"] == "first" and "id" not in answers[1]
    for index, query in enumerate(QUERIES):
        _, alone = run(write([query], "alone.jsonl"), "--overwrite")
        assert {**alone[0], "index": index} == answers[index]


def test_flags_are_defaults_and_a_query_knows_better(run, write):
    _, answers = run(write(QUERIES))
    assert [answers[index]["new_tokens"] for index in range(4)] == [3, 5, 5, 5]
    _, with_system = run(write(QUERIES), "--overwrite", "--system", "Speak.", "--max-frames", 1)
    more = [with_system[index]["prompt_tokens"] - answers[index]["prompt_tokens"] for index in range(4)]
    assert more[0] == more[1] == more[2] > 0 == more[3]


def test_a_mode_is_a_default_where_a_query_says_nothing_of_its_system_prompt(run, write):
    def alone(**keys):
        return run(write([{**QUERIES[1], **keys}], "alone.jsonl"), "--overwrite")[1][0]["prompt_tokens"]

    own = [{}, {"system_prompt": "Be brief."}, {"use_default_system_prompt": False}, {"system_prompt_type": "video"}]
    queries = write([{**QUERIES[1], **keys} for keys in [*own, {"thinking_mode": "thinking"}]])
    result, answers = run(queries, "--thinking-mode", "no_thinking")
    assert [answers[index]["prompt_tokens"] for index in range(4)] == [
        *(
            alone(thinking_mode="no_thinking"),
            alone(system_prompt="Be brief."),
            alone(),
            alone(system_prompt_type="video"),
        )
    ]
    assert len({answers[index]["prompt_tokens"] for index in range(4)}) == 4
    assert result.exit_code == 1 and "needs a system_prompt" in answers[4]["error"]
    _, answers = run(queries, "--overwrite", "--system", "Speak.")
    assert answers[0]["prompt_tokens"] == alone(system_prompt="Speak.")
    assert answers[3]["prompt_tokens"] == alone(system_prompt_type="video")


def test_a_bad_line_costs_itself_only(run, write):
    queries = [QUERIES[1], *BAD, QUERIES[0]]
    result, answers = run(write(queries))
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("mossvl: 7 answers in ")
    assert "5 of them errors" in result.stderr
    errors = [answer["error"] for answer in answers.values() if "error" in answer]
    assert any(f"the first error: {error}" in result.stderr for error in errors)
    assert [("error" in answers[index]) for index in range(7)] == [False, *[True] * 5, False]
    assert all(answers[index]["finish"] == "error" for index in range(1, 6))
    assert "line 2 is not JSON" in answers[1]["error"]
    assert "did you mean 'images'" in answers[2]["error"]
    assert "none.png: no such file" in answers[3]["error"]


def test_errors_are_repeated_when_resuming_only_on_request(run, write, folder, media):
    queries = write([QUERIES[1], {"prompt": "x", "images": ["late.png"]}])
    assert run(queries)[0].exit_code == 1
    shutil.copy(media / "small.png", folder / "late.png")
    result, answers = run(queries, "--resume")
    assert result.exit_code == 1 and "error" in answers[1]
    result, answers = run(queries, "--resume", "--retry-errors")
    assert result.exit_code == 0 and "error" not in answers[1]
    assert "2 answers" in result.stderr and "1 new" in result.stderr


def test_queries_may_come_from_stdin(run, folder):
    lines = "".join(json.dumps(query) + "\n" for query in QUERIES)
    result, answers = run("-", "--media-dir", folder, input=lines)
    assert result.exit_code == 0 and len(answers) == 4


def test_empty_input_gives_empty_output(run, write):
    result, answers = run(write(["", " "]))
    assert (result.exit_code, answers) == (0, {})


def test_existing_answers_need_a_word(run, write, folder):
    queries = write(QUERIES[:2])
    run(queries)
    before = (folder / "answers.jsonl").read_bytes()
    for arguments, message in [
        ([], "--resume goes on with it, --overwrite begins anew"),
        (["--resume", "--overwrite"], "one of the two"),
        (["--retry-errors"], "--resume"),
    ]:
        result, _ = run(queries, *arguments)
        assert result.exit_code == 2 and message in result.stderr
        assert (folder / "answers.jsonl").read_bytes() == before
    result, answers = run(write(QUERIES[:3]), "--resume")
    assert result.exit_code == 0 and len(answers) == 3 and "1 new" in result.stderr


def test_resuming_with_another_input_is_an_error_that_names_the_line(run, write):
    run(write(QUERIES))
    result, _ = run(write([QUERIES[0], "", {"prompt": "other"}, *QUERIES[2:]]), "--resume")
    assert result.exit_code == 2 and "line 3 of the input" in result.stderr
    result, _ = run(write(QUERIES[:3]), "--resume")
    assert result.exit_code == 2 and "only 3 queries" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.jsonl"], "none.jsonl: cannot be read"),
        (["QUERIES", "-o", "QUERIES"], "is the file of queries"),
        (["QUERIES", "-o", "-"], "answers go to a file"),
        (["QUERIES", "-o", "/none/answers.jsonl"], "cannot be written"),
        (["QUERIES", "-c", "/none"], "not a folder"),
        (["QUERIES", "--repetition-penalty", "0"], "--repetition-penalty 0"),
        (["QUERIES", "--thinking-mode", "no_thinkin"], "did you mean 'no_thinking'"),
        (["QUERIES", "--thinking-mode", "deep_thinking"], "needs a --system"),
    ],
)
def test_a_mistake_is_found_before_anything_is_written(run, write, folder, arguments, message):
    queries = write(QUERIES)
    result, answers = run(*(argument.replace("QUERIES", str(queries)) for argument in arguments))
    assert result.exit_code == 2 and message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert answers == {}
    assert len(queries.read_text().splitlines()) == len(QUERIES)
