"""What stands around every request: its key, its site, its number and its line in the log."""

import asyncio
import logging
import re

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from mossvl.server.errors import RequestError

from .guarded import HERE, Application, Guarded, refusal

# --- who may ask -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "known"),
    [
        ("Bearer first", True),
        ("bearer second", True),
        ("BEARER schlüssel", True),
        (None, False),
        ("", False),
        ("first", False),
        ("Bearer", False),
        ("Bearer firs", False),
        ("Bearer firstly", False),
        ("Bearer  first", False),
        ("Basic first", False),
        ("Bearer first second", False),
    ],
)
def test_one_of_the_keys_is_needed(given, known):
    guarded = Guarded(api_keys=("first", "second", "schlüssel"))
    headers = {} if given is None else {"authorization": given.encode()}
    for path in ("/v1/models", "/v1/nothing", "/metrics"):
        response = guarded.ask(path, headers=headers)
        if known:
            assert response.status_code == 200
        else:
            refusal(response, 401, "invalid_api_key")
    assert len(guarded.application.asked) == 3 * known


def test_under_a_prefix_a_key_is_needed_all_the_same_and_paths_are_the_same():
    guarded = Guarded(api_keys=("first",))
    for path in ("/moss/v1/models", "/moss/metrics"):
        refusal(guarded.ask(path, root_path="/moss"), 401, "invalid_api_key")
    assert guarded.application.asked == [] and guarded.counted("requests", path="/metrics", status="401") == 1
    assert guarded.ask("/moss/health", root_path="/moss").status_code == 200
    response = guarded.ask("/moss/v1/messages", root_path="/moss", headers={"x-api-key": "first"})
    assert response.status_code == 200 and "request-id" in response.headers


@pytest.mark.parametrize("prefix", ["", "/moss", "/moss/", "/moss/v1", "/v1"])
@pytest.mark.parametrize("path", ["/health", "/moss//", "/moss/health", "/mossy/health", "/v1/moss", "/v10"])
def test_the_path_that_decides_on_a_key_is_the_one_by_which_the_route_is_found(path, prefix):
    async def told(request):
        return JSONResponse([request.state.path, "/" + request.path_params["rest"]])

    guarded = Guarded(Starlette(routes=[Route("/{rest:path}", told)]))
    decides, found = guarded.ask(path, root_path=prefix).json()
    assert decides == found


def test_a_key_may_come_as_anthropics_clients_send_it():
    guarded = Guarded(api_keys=("first", "second"))
    assert guarded.ask("/v1/messages", headers={"x-api-key": "second"}).status_code == 200
    for headers, told in (({"x-api-key": "third"}, "none of this server's"), ({}, "no API key was sent")):
        response = guarded.ask(headers=headers)
        refusal(response, 401, "invalid_api_key")
        assert re.search(f"{told}; send .* x-api-key: KEY", response.json()["error"]["message"])
    refusal(guarded.ask(headers={"x-api-key": "first", "authorization": "Bearer third"}), 401, "invalid_api_key")


def test_the_application_learns_which_key_was_brought_but_not_the_key():
    guarded = Guarded(api_keys=("first", "second"))
    for key in ("first", "second", "first"):
        guarded.ask(headers={"authorization": f"Bearer {key}"})
    told = [scope["state"]["key"] for scope in guarded.application.asked]
    assert told[0] == told[2] != told[1] and "first" not in told[0]


@pytest.mark.parametrize("path", ["/", "/health", "/page/app.js"])
def test_what_is_no_secret_needs_no_key(path):
    assert Guarded(api_keys=("first",)).ask(path).status_code == 200


def test_with_a_key_it_does_not_matter_whose_page_asks():
    headers = {"authorization": "Bearer first", "origin": "https://example.org", "host": "example.org"}
    assert Guarded(api_keys=("first",)).ask(headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"host": ""}, True),
        ({"host": "LocalHost:1"}, True),
        ({"host": "[::1]:8000"}, True),
        ({"host": "example.org"}, False),
        ({"host": "["}, False),
        ({"origin": HERE}, True),
        ({"origin": "http://LOCALHOST:8000", "host": "localhost:8000"}, True),
        ({"origin": "http://127.0.0.1:8001"}, False),
        ({"origin": "https://named.example"}, True),
        ({"origin": "https://other.example"}, False),
        ({"origin": "https://named.example", "host": "named.example"}, False),
        ({"origin": "null"}, False),
    ],
)
def test_without_a_key_only_pages_of_this_machine_and_of_sites_that_are_named_ask(headers, allowed):
    guarded = Guarded(origins=("https://named.example",))
    for path in ("/v1/models", "/"):
        response = guarded.ask(path, headers=headers)
        if allowed:
            assert response.status_code == 200
        else:
            message = refusal(response, 403, "foreign_site")
            assert repr(headers.get("origin", headers.get("host"))) in message or "'named.example'" in message


def test_a_server_for_everybody_goes_by_any_name_but_asks_whose_page_it_is():
    guarded = Guarded(host="0.0.0.0", open_to_all=True)
    assert guarded.ask(headers={"host": "example.org"}).status_code == 200
    refusal(guarded.ask(headers={"host": "example.org", "origin": "https://other.example"}), 403, "foreign_site")
    everybody = Guarded(host="0.0.0.0", open_to_all=True, origins=("*",))
    assert everybody.ask(headers={"host": "example.org", "origin": "https://other.example"}).status_code == 200


# --- what is told ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["a", "A-z_0.9:", "x" * 64])
def test_a_request_keeps_the_number_that_its_client_gives_it(given):
    guarded = Guarded()
    assert guarded.ask(headers={"x-request-id": given}).headers["x-request-id"] == given
    assert guarded.application.asked[0]["state"]["request_id"] == given


@pytest.mark.parametrize("given", [None, "", "x" * 65, "a b", "a\tb", "é"])
def test_a_request_without_a_proper_number_gets_one(given):
    guarded = Guarded(api_keys=("first",))  # What is refused has a number, too.
    headers = {} if given is None else {"x-request-id": given.encode()}
    numbers = [guarded.ask(path, headers=headers).headers["x-request-id"] for path in ("/", "/v1/models")]
    assert all(re.fullmatch("[0-9a-f]{24}", number) for number in numbers)
    assert numbers[0] != numbers[1]
    assert guarded.application.asked[0]["state"]["request_id"] == numbers[0]


def lines(caplog):
    return [(record.levelname, record.getMessage()) for record in caplog.records if record.name == "mossvl.server"]


def test_a_request_is_a_line_of_the_log(caplog):
    caplog.set_level(logging.DEBUG, "mossvl.server")
    guarded = Guarded(api_keys=("first",))
    headers = {"x-request-id": "one"}
    guarded.ask("/a b", "POST", headers=headers)
    guarded.ask("/v1/models", headers=headers)
    ((level, line), (other_level, other)) = lines(caplog)
    assert level == other_level == "INFO"
    found = re.fullmatch(r"one 127\.0\.0\.1 POST /a\\x20b 200 (\d+) ms", line)
    assert found and int(found[1]) < 60_000
    assert re.fullmatch(r"one 127\.0\.0\.1 GET /v1/models 401 \d+ ms", other)


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics"])
def test_probes_are_told_of_only_when_they_fail(path, caplog):
    caplog.set_level(logging.DEBUG, "mossvl.server")
    guarded = Guarded(Application(route=path))
    guarded.ask(path)
    guarded.ask(path, headers={"host": "example.org"})
    assert [level for level, _ in lines(caplog)] == ["DEBUG", "INFO"]


def test_requests_are_counted_by_path_and_status():
    guarded = Guarded(api_keys=("first",))
    known = ["/v1/files", "/v1/chat/completions", "/v1/media/frames", "/v1/models", "/metrics"]
    for path in known:
        guarded.ask(path)
        guarded.ask(path, headers={"authorization": "Bearer first"})
        assert guarded.counted("requests", path=path, status="401") == 1
        assert guarded.counted("requests", path=path, status="200") == 1
    guarded.ask("/whatever/it/is")
    assert guarded.counted("requests", path="other", status="200") == 1
    assert guarded.counted("errors", code="invalid_api_key") == len(known)


def test_requests_that_are_routed_are_counted_by_their_route():
    guarded = Guarded(Application(route="/v1/files/{number}"))
    guarded.ask("/v1/files/file-1")
    assert guarded.counted("requests", path="/v1/files/{number}", status="200") == 1


class Failing(Application):
    """Fails, before an answer has begun or after that."""

    def __init__(self, error, begun=False):
        super().__init__()
        self.error, self.begun = error, begun

    async def answer(self, scope, send, content):
        if self.begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise self.error


def test_a_failure_is_told_in_the_log_and_not_to_the_client(caplog):
    guarded = Guarded(Failing(ValueError("our secret")))
    response = guarded.ask(headers={"x-request-id": "one"})
    assert "secret" not in refusal(response, 500, "internal_error")
    assert response.headers["x-request-id"] == "one"
    failure = next(record for record in caplog.records if record.exc_info)
    assert failure.getMessage() == "request one has failed" and str(failure.exc_info[1]) == "our secret"
    assert guarded.counted("errors", code="internal_error") == 1
    assert guarded.counted("requests", path="/v1/models", status="500") == 1


def test_a_refusal_is_no_failure(caplog):
    guarded = Guarded(Failing(RequestError(429, "slowly", "not so fast")))
    assert refusal(guarded.ask(), 429, "slowly") == "not so fast"
    assert not [record for record in caplog.records if record.exc_info]
    assert guarded.counted("errors", code="slowly") == 1


def test_what_fails_after_its_answer_has_begun_gets_no_second_one():
    guarded = Guarded(Failing(ValueError("late"), begun=True))
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message["type"])

    scope = {"type": "http", "method": "GET", "path": "/v1/models", "headers": [(b"host", b"localhost")]}
    asyncio.run(guarded.gate(scope, receive, send))
    assert sent == ["http.response.start"]
    assert guarded.counted("errors", code="internal_error") == 1
    assert guarded.counted("requests", path="/v1/models", status="200") == 1


def test_a_client_that_has_left_before_its_answer_is_counted_as_gone(caplog):
    class Silent(Application):
        async def answer(self, scope, send, content):
            return

    caplog.set_level(logging.DEBUG, "mossvl.server")
    guarded = Guarded(Silent())

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "method": "GET", "path": "/health", "headers": [(b"host", b"localhost")], "client": None}
    asyncio.run(guarded.gate(scope, receive, None))
    assert guarded.counted("requests", path="other", status="499") == 1
    ((level, line),) = lines(caplog)
    assert level == "INFO" and " - GET /health 499 " in line


def test_what_is_no_request_passes():
    passed = []

    async def application(scope, receive, send):
        passed.append((scope, receive, send))

    guarded = Guarded(application, api_keys=("first",))
    asyncio.run(guarded.gate({"type": "lifespan"}, "receive", "send"))
    assert passed == [({"type": "lifespan"}, "receive", "send")]
