"""Tasks are asked turn by turn, and their answers' scores are counted by name."""

import pytest
from golden_cases import MEDIA

from mossvl import SamplingParams
from mossvl.errors import MediaError
from mossvl.evaluation import ExactAnswers, Tally, ask, tallied

FOUR = SamplingParams(max_new_tokens=4)
CLIP = str(MEDIA / "clip_10fps_6s.mp4")


def question(text, **medium):
    parts = [{"type": kind, kind: source} for kind, source in medium.items()]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


def test_a_question_follows_on_the_models_own_answer(llm):
    chat = llm.chat(params=FOUR)
    said = [chat.ask("yes").text, chat.ask("and then?").text]
    fresh = llm.generate("and then?", FOUR).text
    assert fresh != said[1]
    questions = [question("yes"), question("and then?")]
    expected = ExactAnswers("mine", questions, said)
    unexpected = ExactAnswers("mine", questions, ["other", fresh])
    assert list(ask(llm, [expected, unexpected], FOUR)) == [("mine", 1), ("mine", 0), ("mine", 1), ("mine", 0)]


def test_longer_and_shorter_conversations_are_asked_together(llm):
    long = ExactAnswers("long", [question("yes"), question("no"), question("yes")], ["", "", ""])
    short = ExactAnswers("short", [question("no")], [llm.generate("no", FOUR).text])
    assert [name for name, _ in ask(llm, [long, short], FOUR)] == ["long", "short", "long", "long"]
    assert tallied(ask(llm, [long, short], FOUR)) == {"long": (0, 3), "short": (1, 1)}
    assert list(ask(llm, [])) == []


def test_a_task_chooses_how_its_media_are_seen(llm):
    seen = [
        ExactAnswers("seen", [question("yes", video=CLIP)], [""], {"media_kwargs": {"max_frames": frames}})
        for frames in (1, 3)
    ]
    tokens = [llm.generate(task.query([]), FOUR).usage.prompt_tokens for task in seen]
    assert tokens[1] > tokens[0]


def test_any_task_gives_scores_between_right_and_wrong(llm):
    class Half:
        name = "half"

        def query(self, answers):
            return {"prompt": "yes"} if len(answers) < 2 else None

        def score(self, answers):
            return len(answers) / 4

    (tally,) = tallied(ask(llm, [Half()], FOUR)).values()
    assert tally == (0.75, 2) and tally.mean == 0.375


def test_a_query_that_cannot_be_answered_raises_its_error(llm):
    gone = ExactAnswers("gone", [question("yes", image="missing.png")], ["yes"])
    with pytest.raises(MediaError, match=r"missing\.png"):
        list(ask(llm, [gone], FOUR))


def test_no_answers_have_the_mean_0():
    assert Tally.of([]).mean == 0


def test_other_forms_of_an_answer_are_right_where_they_are_given():
    task = ExactAnswers("mine", [question("yes"), question("no")], ["star", "blue"], others=[["It is a star."], []])
    assert task.score(["It is a star."]) == task.score(["star"]) == 1
    assert task.score(["star", "It is a star."]) == 0
    assert ExactAnswers("mine", [question("yes")], ["star"]).score(["It is a star."]) == 0
