"""The server's adapters are models: listed, and chosen by a request's `model` in every API."""

import json
import re

import httpx
import pytest
from websockets.sync.client import connect

from mossvl.errors import OptionError
from mossvl.server.config import ServerConfig
from mossvl.server.run import beside

ASKED = {"role": "user", "content": "Why?"}
APIS = {
    "/v1/chat/completions": (
        {"messages": [ASKED], "max_completion_tokens": 8, "ignore_eos": True},
        lambda found: found["choices"][0]["message"]["content"],
    ),
    "/v1/completions": (
        {"prompt": "Why?", "max_tokens": 8, "ignore_eos": True},
        lambda found: found["choices"][0]["text"],
    ),
    "/v1/responses": (
        {"input": "Why?", "max_output_tokens": 8, "ignore_eos": True},
        lambda found: found["output"][0]["content"][0]["text"],
    ),
    "/v1/messages": (
        {"messages": [ASKED], "max_tokens": 8, "ignore_eos": True},
        lambda found: found["content"][0]["text"],
    ),
}


@pytest.fixture
def url(adapters, make):
    adapters.add("team/one")
    adapters.add("two")
    with beside(ServerConfig(port=0, decoders=1), make(lora=adapters.folders), "golden") as url:
        yield url


def test_a_request_chooses_an_adapter_by_its_model(url):
    listed = httpx.get(f"{url}/v1/models").json()["data"]
    assert [(one["id"], one.get("parent")) for one in listed] == [
        ("golden", None),
        ("team/one", "golden"),
        ("two", "golden"),
    ]
    assert httpx.get(f"{url}/v1/models/team/one").json()["id"] == "team/one"
    assert httpx.get(f"{url}/v1/models/three").status_code == 404
    for path, (request, text) in APIS.items():

        def answer(name, path=path, request=request, text=text):
            found = httpx.post(f"{url}{path}", json=request | ({} if name is None else {"model": name}), timeout=60)
            assert found.status_code == 200, found.text
            return found.json()["model"], text(found.json())

        models, texts = zip(*map(answer, ("golden", "team/one", "two")), strict=True)
        assert models == ("golden", "team/one", "two")
        assert len(set(texts)) == 3
        assert answer(None) == answer("three") == ("golden", texts[0])  # As any other name does.
        assert [answer(name)[1] for name in models] == list(texts)
    counted = re.findall(r'mossvl_queries_total\{model="(.*)"\} (\d+)', httpx.get(f"{url}/metrics").text)
    assert counted == [("golden", "16"), ("team/one", "8"), ("two", "8")]


def test_a_stream_names_its_adapter(url):
    request = {"messages": [ASKED], "max_completion_tokens": 4, "stream": True, "model": "two"}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=request, timeout=60) as response:
        events = [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: {")]
    assert events and {json.loads(event)["model"] for event in events} == {"two"}


def test_a_live_session_chooses_an_adapter_by_its_address(url):
    for asked, named in (("?model=two", "two"), ("?model=three", "golden"), ("", "golden")):
        with connect(f"ws{url.removeprefix('http')}/v1/video/realtime{asked}") as client:
            assert named in client.recv(30)


def test_an_adapter_that_is_named_as_the_model_is_refused(adapters, make):
    adapters.add("golden")
    served = beside(ServerConfig(port=0), make(lora=adapters.folders), "golden")
    with pytest.raises(OptionError, match="'golden' is named as the model"), served:
        pass
