"""`mossvl ask`"""

import json
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SHORT = ("--max-new-tokens", 8)


@pytest.fixture
def ask(command, checkpoint):
    return lambda *arguments, **kwargs: command("ask", "-c", checkpoint, *SHORT, *arguments, **kwargs)


def test_the_answer_goes_to_stdout_and_nothing_else_anywhere(ask, media):
    result = ask(media / "photo.jpg", "What is this?")
    assert result.exit_code == 0
    assert result.stdout.endswith("\n") and result.stdout.strip()
    assert result.stderr == ""


def test_a_question_may_be_longer_than_a_name_of_a_file(ask, media):
    assert ask(media / "photo.jpg", "What is this? " * 30).exit_code == 0


def test_it_is_told_that_mossvl_tiny_answers_where_no_checkpoint_is_named(command, cached_load, monkeypatch, caplog):
    monkeypatch.setattr("mossvl.loading.load", cached_load.__wrapped__)  # It tells, and would not the second time.
    named = command("ask", "-c", "mossvl-tiny", *SHORT, "Hello!")
    assert named.exit_code == 0 and not caplog.records
    unnamed = command("ask", *SHORT, "Hello!")
    assert unnamed.stdout == named.stdout
    assert [record.message.partition(":")[0] for record in caplog.records] == ["no checkpoint is named"]


@pytest.mark.parametrize(
    "given",
    [
        ("ask", "-q", "int9", "What?"),
        ("ask", "--device", "nowhere", "What?"),
        ("run", "none.jsonl", "-o", "none.answers"),
        ("run", "-q", "int9", "none.jsonl", "-o", "none.answers"),
        ("serve", "--port", 99999),
        ("train", EXAMPLES / "clip.mp4", "-o", "none"),
    ],
)
def test_a_mistake_is_all_that_is_told(command, caplog, given):
    refused = command(*given)
    assert refused.exit_code == 2
    assert refused.stderr.startswith("mossvl: error: ") and refused.stderr.count("\n") == 1
    assert not caplog.records


def test_words_of_a_question_and_of_names_that_lack_quotes_are_told_from_files(command):
    sign = EXAMPLES / "sign.png"
    for given in ((sign, "What", "is", "there?"), ("What is there?", sign), ("my", "photo.png", "What is there?")):
        word = next(one for one in given if one != sign)
        refused = command("ask", *given)
        assert f"{word}: no such file" in refused.stderr and "then the question: put it in quotes" in refused.stderr
    refused = command("ask", "photo.png", "What is there?")
    assert refused.stderr == "mossvl: error: photo.png: no such file; check the path\n"


def test_a_folder_and_a_part_that_is_written_wrongly_are_told(command):
    assert f"{EXAMPLES} is a folder; give the path of" in command("ask", EXAMPLES, "What?").stderr
    clip = EXAMPLES / "clip.mp4"
    assert f"a part of {clip} is written {clip}#t=START,END" in command("ask", f"{clip}#1,3", "What?").stderr


def test_json_tells_what_was_seen(ask, media):
    clip = media / "clip_10fps_6s.mp4"
    result = ask(media / "small.png", f"{clip}#t=1,3", f"{clip}#t=4.5", "What?", "--json", "--video-fps", 2)
    told = json.loads(result.stdout)
    image, part, instant = told["media"]
    assert [one["kind"] for one in told["media"]] == ["image", "video", "video"]
    assert part["timestamps"] == [1.0, 1.5, 2.0, 2.5]
    assert instant["timestamps"] == [4.5]
    for one, frames in ((image, 1), (part, 4), (instant, 1)):
        width, height = one["model_size"]
        assert one["vision_tokens"] == frames * (width // 32 * (height // 32) + 1)
    assert told["vision_tokens"] == sum(one["vision_tokens"] for one in told["media"])
    assert told["question"] == "What?"
    assert (told["new_tokens"], told["finish"]) == (8, "length")
    assert told["prompt_tokens"] > 0 and told["seconds"] > 0


def test_json_and_stream_give_the_same_answer(ask, media):
    arguments = (media / "gray.png", "What is this?")
    assert json.loads(ask(*arguments, "--json").stdout)["answer"] + "\n" == ask(*arguments).stdout


def test_media_are_seen_in_the_order_in_which_they_are_given(ask, media, monkeypatch):
    image, video = str(media / "small.png"), str(media / "clip_10fps_6s.mp4")
    for order in ([image, video], [video, image]):
        told = json.loads(ask(*order, "Which is first?", "--json").stdout)
        assert [one["source"] for one in told["media"]] == order


def test_a_question_may_come_without_media(ask):
    assert ask("What is the capital of France?").exit_code == 0


def test_flags_reach_the_model(ask, media):
    told = json.loads(ask("hello", "--json", "--max-new-tokens", 3).stdout)
    assert told["new_tokens"] == 3
    drawn = [ask("hello", "--sample", "--temperature", 5, "--seed", seed).stdout for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    whole = json.loads(ask("hello", "--json").stdout)["answer"]
    stopped = json.loads(ask("hello", "--json", "--stop", whole[3:5]).stdout)
    assert (stopped["answer"], stopped["finish"]) == (whole[: whole.index(whole[3:5])], "stop")
    told = json.loads(ask(media / "clip_40s.mp4", "hello", "--json", "--max-frames", 5).stdout)
    assert len(told["media"][0]["timestamps"]) == 5
    longer = json.loads(ask("hello", "--json", "--system", "You are brief.").stdout)["prompt_tokens"]
    assert longer > json.loads(ask("hello", "--json").stdout)["prompt_tokens"]


def test_the_checkpoint_may_come_from_the_environment(command, checkpoint):
    assert command("ask", "hello", *SHORT, env={"MOSSVL_CHECKPOINT": str(checkpoint)}).exit_code == 0


def test_without_a_checkpoint_mossvl_tiny_answers_and_one_line_says_so(start, command):
    asking = start("ask", EXAMPLES / "clip.mp4", "When does the blue star appear?", "--device", "cpu")
    out, errors = asking.communicate(timeout=120)
    assert out.decode() == "2.0 seconds\n"
    (line,) = errors.decode().splitlines()
    assert "mossvl-tiny" in line


def test_questions_follow_each_other_in_one_conversation(command):
    question = (EXAMPLES / "shapes.png", "What shape is the orange thing?", "--then", "Is it plain, striped or dotted?")
    question = (*question, "--device", "cpu")
    assert command("ask", *question).stdout == "square\nstriped\n"
    first, second = map(json.loads, command("ask", *question, "--json").stdout.splitlines())
    assert (first["question"], second["question"]) == (question[1], question[3])
    assert second["prompt_tokens"] > first["prompt_tokens"] and second["vision_tokens"] == first["vision_tokens"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["MEDIA/photo.jpg"], "add the question"),
        ([" "], "empty"),
        (["none.jpg", "What?"], "none.jpg: no such file"),
        (["MEDIA/photo.jpg#t=x", "What?"], "is not a time"),
        (["MEDIA/clip_10fps_6s.mp4#t=20,30", "What?"], "outside the video"),
        (["What?", "--top-p", "2", "--sample"], "--top-p 2"),
        (["What?", "--temperature", "0.5"], "add --sample"),
        (["What?", "--min-p", "0.5"], "--min-p without --sample"),
        (["What?", "--temperature", "0.5", "--seed", "1"], "add --sample"),
        (["What?", "--max-frames", "2", "--min-frames", "3"], "--min-frames 3 is more than --max-frames 2"),
        (["What?", "--download-bytes", "0"], "--download-bytes 0"),
        (["What?", "--device", "toaster"], "--device toaster is not a device"),
        (["What?", "--dtype", "int7"], "int7"),
        (["What?", "--timeout", "0.000001"], "timeout of 1e-06 seconds"),
        (["MEDIA/photo.jpg", "What?", "--max-image-pixels", "100"], "more than the 100 allowed"),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_exit_code_2(ask, media, arguments, message):
    result = ask(*(argument.replace("MEDIA", str(media)) for argument in arguments))
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("mossvl: error: ")
    assert len(result.stderr.splitlines()) == 1
    assert message in result.stderr


@pytest.mark.parametrize(
    ("given", "message"),
    [(["-c", "/none"], "not a folder"), (["-c", "MEDIA"], "no config.json")],
)
def test_where_no_checkpoint_is_the_error_says_so(command, media, given, message):
    result = command("ask", "What?", *(argument.replace("MEDIA", str(media)) for argument in given))
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_a_mode_chooses_a_system_prompt(ask, media):
    def tokens(*arguments):
        return json.loads(ask(*arguments, "--json").stdout)["prompt_tokens"]

    fixed = "You are a helpful AI assistant. Respond to the user's request based on the provided text and/or images."
    assert tokens("hello", "--thinking-mode", "default") == tokens("hello", "--system", fixed) > tokens("hello")
    assert tokens("hello", "--use-default-system-prompt") == tokens("hello", "--system", fixed)
    refused = ask("hello", "--thinking-mode", "reasoning")
    assert refused.exit_code == 2 and "--thinking-mode reasoning needs a --system:" in refused.stderr
    assert ask("hello", "--thinking-mode", "reasoning", "--system", "Think.").exit_code == 0
