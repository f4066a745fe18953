"""Stored responses: whose they are, and when they are removed."""

import json
import os
import subprocess
import sys
import time

import pytest

from mossvl.server.errors import RequestError
from mossvl.server.schemas.responses import ResponsesRequest
from mossvl.server.stored import StoredResponse, StoredResponses, size_of
from mossvl.server.turns import Conversation


def kept(responses, number, previous=None, key="", size=10):
    messages = [{"role": "user", "content": f"question {number}"}, {"role": "assistant", "content": f"answer {number}"}]
    one = {"id": f"resp_{number}", "owner": key, "size": size, "previous": previous}
    responses.add(StoredResponse(**one, content={"id": one["id"]}, messages=messages))


def there(responses, *numbers, key=""):
    return [found(responses, f"resp_{number}", key) for number in numbers]


def found(responses, response_id, key):
    try:
        return responses.get(key, response_id).content["id"] == response_id
    except RequestError as error:
        if (error.status, error.code) != (404, "response_not_found"):
            raise
        return False


def test_a_conversation_is_all_that_a_response_continues():
    responses = StoredResponses(100, 60, 9)
    for number, previous in ((1, None), (2, "resp_1"), (3, "resp_2"), (4, "resp_2")):
        kept(responses, number, previous)
    texts = [message["content"] for message in responses.conversation("", "resp_4", "previous_response_id")]
    assert texts == [f"{what} {number}" for number in (1, 2, 4) for what in ("question", "answer")]


def test_a_conversation_whose_beginning_is_gone_is_refused_and_names_it():
    responses = StoredResponses(100, 60, 9)
    kept(responses, 1)
    kept(responses, 2, "resp_1")
    responses.remove("", "resp_1")
    with pytest.raises(RequestError, match="'resp_1'") as refused:
        responses.conversation("", "resp_2", "previous_response_id")
    assert (refused.value.status, refused.value.param) == (404, "previous_response_id")


def test_the_least_recently_used_are_removed_when_there_are_too_many():
    responses = StoredResponses(100, 60, 2)
    kept(responses, 1)
    kept(responses, 2)
    assert there(responses, 1) == [True]
    kept(responses, 3)
    assert there(responses, 1, 2, 3) == [True, False, True]


def test_the_least_recently_used_are_removed_when_they_are_too_large():
    responses = StoredResponses(25, 60, 9)
    kept(responses, 1)
    kept(responses, 2)
    assert there(responses, 1, 2) == [True, True]
    kept(responses, 3, size=15)
    assert there(responses, 1, 2, 3) == [False, True, True]
    responses.remove("", "resp_3")
    kept(responses, 4, size=15)
    assert there(responses, 2, 4) == [True, True]


def test_what_is_too_old_is_removed_and_use_renews_it(monkeypatch):
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    responses = StoredResponses(100, 60, 9)
    kept(responses, 1)
    kept(responses, 2)
    now += 59
    assert there(responses, 1) == [True]
    now += 2
    responses.forget_old()
    assert there(responses, 1, 2) == [True, False]


def test_another_key_finds_nothing_and_removes_nothing():
    responses = StoredResponses(100, 60, 9)
    kept(responses, 1, key="one")
    assert there(responses, 1, key="two") == [False]
    with pytest.raises(RequestError):
        responses.remove("two", "resp_1")
    assert there(responses, 1, key="one") == [True]


def test_the_size_is_that_of_all_that_is_held():
    text = "a" * 1000
    assert 3000 < size_of([{"b": text}, [text, (text,)]]) < 4000


def test_what_is_no_json_value_has_no_size():
    with pytest.raises(TypeError, match="StoredResponses"):
        size_of([{"a": StoredResponses(100, 60, 9)}])


@pytest.mark.parametrize(
    "part",
    [
        {"type": "input_image", "image_url": "URL"},
        {"type": "image_url", "image_url": "URL"},
        {"type": "image_url", "image_url": {"url": "URL", "max_pixels": 9}},
        {"type": "video_url", "video_url": {"url": "URL", "segments": [[0, 1]]}},
        {"type": "video_frames", "video_frames": {"frames": [{"timestamp": 0, "url": "URL"}]}},
    ],
    ids=lambda part: part["type"],
)
def test_the_size_of_a_conversation_has_the_media_of_every_kind_of_part(part):
    url = f"data:image/png;base64,{'A' * 10_000}"
    given = json.loads(json.dumps([{"role": "user", "content": [part]}]).replace('"URL"', json.dumps(url)))
    request = ResponsesRequest.model_validate({"input": given})
    messages = Conversation(dict).messages(request.input)
    assert 10_000 < size_of(messages) < 20_000


# --- a folder that several processes share ---------------------------------------------------------------------------


def test_what_one_process_keeps_another_finds_and_removes(tmp_path):
    one, other = (StoredResponses(100, 60, 2, tmp_path) for _ in range(2))
    kept(one, 1)
    kept(other, 2)
    assert there(one, 1, 2) == there(other, 1, 2) == [True, True]
    assert there(other, 1) == [True]
    kept(one, 3)
    assert there(other, 1, 2, 3) == [True, False, True]
    other.remove("", "resp_1")
    assert there(one, 1, 3) == [False, True]


def test_a_process_that_is_killed_at_any_moment_leaves_nothing_half_kept(tmp_path):
    code = (
        "import sys; from pathlib import Path\n"
        "from mossvl.server.stored import StoredResponse, StoredResponses\n"
        "responses = StoredResponses(1 << 30, 60, 10**6, Path(sys.argv[1]))\n"
        "for number in range(10**6):\n"
        "    content = {'id': f'resp_{number}', 'text': 'a' * 10_000}\n"
        "    responses.add(StoredResponse(id=content['id'], owner='', size=10, content=content, messages=[], "
        "previous=None))\n"
        "    print(number, flush=True)\n"
    )
    told = []
    for _ in range(3):
        for file in tmp_path.iterdir():
            file.unlink()
        quick = os.environ | {"MOSSVL_UNREGISTERED": "1"}
        command = [sys.executable, "-c", code, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=quick) as process:
            told = [process.stdout.readline() for _ in range(20)]
            process.kill()
            told += process.stdout.readlines()
        found = StoredResponses(1 << 30, 60, 10**6, tmp_path).of("")
        assert len(found) - len(told) in (0, 1)
        assert all(len(one.content["text"]) == 10_000 for one in found)
