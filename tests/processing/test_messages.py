"""Messages as they are given: what is read, what is refused in words, and where answers stand."""

import pytest

from mossvl.errors import PromptError
from mossvl.processing.labels import answer_spans
from mossvl.processing.messages import check_characters, check_messages


def user(content):
    return {"role": "user", "content": content}


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (["a"], [{"type": "text", "text": "a"}]),
        (("a", {"text": "b"}), [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]),
        ({"type": "image", "image": "c.png"}, [{"type": "image", "image": "c.png"}]),
        (
            [{"video": "d.mp4"}, {"image": "c.png"}],
            [{"type": "video", "video": "d.mp4"}, {"type": "image", "image": "c.png"}],
        ),
        ([], []),
    ],
)
def test_content_is_a_part_or_several(content, parts):
    assert check_messages([user(content)]) == [user(parts)]


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ({"type": "image"}, "image"),
        ({"type": "image", "image": None}, "image"),
        ({"type": "image", "image": {}}, "image"),
        ({"image": {}}, "image"),
        ({"type": "image_url", "image_url": {}}, "image"),
        ({"type": "image_url", "image_url": {"url": None, "detail": "low"}}, "image"),
        ({"type": "video"}, "video"),
        ({"type": "video", "video": {}}, "video"),
        ({"video_url": {}}, "video"),
        ({"type": "text"}, "text"),
    ],
)
def test_a_part_that_holds_nothing_is_told_as_it_was_given_and_what_it_lacks(part, kind):
    with pytest.raises(PromptError) as refused:
        check_messages([user("Hi"), user([part])])
    example = f'{{"type": "{kind}", "{kind}": …}}'
    assert str(refused.value) == f"message 2: the part {part!r} holds no {kind}; write {example}"


def test_a_medium_with_neither_bytes_nor_path_stays_what_it_is():
    part = {"type": "image", "image": {"bytes": None, "path": None}}
    assert check_messages([user([part])]) == [user([part])]


def test_content_that_is_a_text_stays_one():
    given = ({"role": "system", "content": "Be brief."}, user("Why?"))
    assert check_messages(given) == list(given)


@pytest.mark.parametrize("messages", [None, "Why?", 3, {}, user("Why?"), [], ()])
def test_what_is_no_list_of_messages_is_refused(messages):
    with pytest.raises(PromptError, match="must be a list of messages, and not empty"):
        check_messages(messages)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("Why?", "message 2 must be a dict with a role and a content, but is 'Why\\?'"),
        ({"content": "Why?"}, "message 2 must be a dict with a role and a content"),
        ({"role": "user"}, "message 2 must be a dict with a role and a content"),
        ({"role": "dog", "content": "Woof"}, "message 2 has the role 'dog'; expected one of .*user"),
        (user(3), "message 2: content must be a text or a list of parts, but is 3"),
        (user([3]), "message 2: a part must be a text, .*, but is 3"),
        (user([{"type": "sound", "sound": "e.wav"}]), "message 2: a part must be a text"),
        (user([{"type": "sound", "image": "c.png"}]), "message 2: a part must be a text"),
        (user([{"text": 4}]), "message 2: a text part holds 4, which is no text"),
    ],
)
def test_what_is_no_message_is_refused_with_its_number(message, words):
    with pytest.raises(PromptError, match=words):
        check_messages([user("Why?"), message])


def test_half_a_character_is_told_with_what_stands_around_it():
    check_characters("ä 😀")
    for text, around in (("0123456789abc\udc80defghijklmnop", "3456789abc\udc80defghijkl"), ("ab\udc80", "ab\udc80")):
        with pytest.raises(PromptError) as refused:
            check_characters(text)
        assert f": {around!r}; remove it" in str(refused.value)


def test_answers_stand_between_their_turns_beginning_and_end():
    answers = ["One\nand two.<|im_end|>", "<|im_end|>"]
    text = (
        f"<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n{answers[0]}\n<|im_start|>assistant\n{answers[1]}\n"
    )
    assert [text[start:end] for start, end in answer_spans(text + "<|im_start|>assistant\nopen")] == answers
