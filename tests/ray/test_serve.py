"""Ray Serve: the server's routes behind Serve's proxy, answered by replicas that come, go, and die."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import yaml
from adapted_models import Adapted
from descendants import descendants
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from mossvl.errors import OptionError

serve = pytest.importorskip("ray.serve", reason="no Ray; .ci/ray installs it")

ROOT = Path(__file__).parents[2]
CHAT = "/v1/chat/completions"
REPLICA = "ray::ServeReplica"
PATIENCE = 180
ASKED = {"messages": [{"role": "user", "content": "Why?"}], "max_tokens": 8, "ignore_eos": True}
LONG = {**ASKED, "max_tokens": 4000}


@pytest.fixture(scope="module")
def adapted(model, processor, tmp_path_factory):
    made = Adapted(model, processor, tmp_path_factory.mktemp("adapters"))
    made.add("one")
    made.add("two")
    return made


@pytest.fixture(scope="module")
def url(cluster, checkpoint, adapted):
    """A deployment of one replica, or two when there is much to do."""
    from mossvl.ray import AppArgs, build_app

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    scaling = {"min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": 2}
    scaling |= {"upscale_delay_s": 0.5, "downscale_delay_s": 2, "look_back_period_s": 2, "metrics_interval_s": 0.5}
    args = AppArgs(
        model=checkpoint,
        device="cpu",
        lora=adapted.folders,
        engine={"memory": 1 << 25},
        server={"decoders": 1, "model_name": "golden", "shutdown_timeout": 20},
        autoscaling_config=scaling,
        health_check_period_s=1,
    )
    serve.run(build_app(args))
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()


@pytest.fixture
def ask(url):
    def ask(path=CHAT, headers=None, **fields):
        response = httpx.post(url + path, json=ASKED | fields, headers=headers, timeout=PATIENCE)
        assert response.status_code == 200, response.text
        return response.json()

    return ask


def text_of(answer):
    return answer["choices"][0]["message"]["content"]


def replicas():
    return [pid for pid, line in descendants().items() if line.startswith(REPLICA)]


def until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture
def expected(llm):
    return llm.generate({"prompt": "Why?", "generate_kwargs": {"max_new_tokens": 8, "ignore_eos": True}}).text


def test_an_answer_is_the_engines_whole_or_in_a_stream(url, ask, expected):
    assert text_of(ask()) == expected
    with httpx.stream("POST", url + CHAT, json={**ASKED, "stream": True}, timeout=PATIENCE) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert events[-1] == "[DONE]" and len(events) > 4
    chunks = [json.loads(event)["choices"][0]["delta"].get("content") or "" for event in events[:-1]]
    assert "".join(chunks) == expected


def test_an_uploaded_file_is_asked_about(url, ask, media):
    with (media / "small.png").open("rb") as file:
        given = {"file": ("small.png", file, "image/png")}
        uploaded = httpx.post(f"{url}/v1/files", files=given, data={"purpose": "user_data"}, timeout=PATIENCE).json()
    part = {"type": "image_url", "image_url": {"url": f"upload:{uploaded['id']}"}}
    parts = [part, {"type": "text", "text": "What?"}]
    assert ask(messages=[{"role": "user", "content": parts}])["usage"]["completion_tokens"] == 8


def test_adapters_are_chosen_by_the_header_or_the_model(ask):
    plain, one = text_of(ask()), text_of(ask(model="one"))
    header = {"serve_multiplexed_model_id": "one"}
    assert text_of(ask(headers=header)) == one != plain
    assert text_of(ask(headers=header, model="two")) == text_of(ask(model="two")) != one
    assert text_of(ask(headers={"serve_multiplexed_model_id": "golden"})) == plain


def test_a_header_that_names_no_adapter_is_refused(url):
    response = httpx.post(url + CHAT, json=ASKED, headers={"serve_multiplexed_model_id": "three"}, timeout=PATIENCE)
    assert response.status_code == 404 and "'three'" in response.text


def test_a_live_session_is_opened_through_the_proxy(url):
    with connect(f"ws{url.removeprefix('http')}/v1/video/realtime") as client:
        assert json.loads(client.recv(PATIENCE))["type"] == "session.created"


def test_a_client_that_goes_away_ends_its_query(url):
    def metric(name):
        page = httpx.get(f"{url}/metrics", timeout=PATIENCE).text
        return sum(map(float, re.findall(rf"^mossvl_{name} ([\d.]+)$", page, re.MULTILINE)))

    gone, new = 'disconnects_total{how="\\w+"}', 'tokens_total{kind="new"}'
    before = metric(gone), metric(new)
    with httpx.stream("POST", url + CHAT, json={**LONG, "stream": True}, timeout=PATIENCE) as one:
        next(one.iter_lines())
    until(lambda: metric(gone) > before[0] and metric("requests_running") == 0)
    assert metric(new) - before[1] < LONG["max_tokens"]


def test_a_foreign_host_is_refused_as_by_the_server(url):
    response = httpx.get(f"{url}/v1/models", headers={"host": "example.org"}, timeout=PATIENCE)
    assert response.status_code == 403 and "does not name this machine" in response.text


def test_a_replica_that_dies_is_replaced_and_its_requests_end_with_an_error(url, ask, expected):
    before = replicas()
    with httpx.stream("POST", url + CHAT, json={**LONG, "stream": True}, timeout=PATIENCE) as one:
        lines = one.iter_lines()
        next(lines)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        with suppress(httpx.HTTPError):
            assert "[DONE]" not in "".join(lines)

    def answered():
        try:
            found = httpx.post(url + CHAT, json=ASKED, timeout=PATIENCE)
        except httpx.HTTPError:
            return False
        assert found.status_code in (200, 500, 503), found.text
        return found.status_code == 200 and text_of(found.json()) == expected

    until(answered)
    assert not set(replicas()) & set(before)


def test_replicas_come_and_go_while_requests_run_and_none_fails(url, ask):
    until(lambda: len(replicas()) == 1)
    answers, stop = [], threading.Event()

    def client():
        while not stop.is_set():
            answers.append(ask(max_tokens=400)["usage"]["completion_tokens"])

    clients = [threading.Thread(target=client) for _ in range(6)]
    for one in clients:
        one.start()
    try:
        until(lambda: len(replicas()) == 2)
    finally:
        stop.set()
    for one in clients:
        one.join()
    steady = threading.Thread(
        target=lambda: answers.extend(ask(max_tokens=400)["usage"]["completion_tokens"] for _ in range(20))
    )
    steady.start()
    until(lambda: len(replicas()) == 1)
    steady.join()
    assert set(answers) == {400}


def test_a_replica_that_is_to_go_ends_live_sessions_as_the_server_does_and_answers_what_it_has_begun(url, checkpoint):
    from mossvl.ray import AppArgs, build_app

    args = AppArgs(model=checkpoint, device="cpu", engine={"memory": 1 << 25}, server={"decoders": 1})
    serve.run(build_app(args), name="leaving", route_prefix="/leaving")
    going = threading.Thread(target=serve.delete, args=("leaving",))
    begun = {**ASKED, "max_tokens": 800}  # It is not answered yet when the replica is to go, and in time after that.
    with (
        connect(f"ws{url.removeprefix('http')}/leaving/v1/realtime") as live,
        httpx.stream("POST", f"{url}/leaving{CHAT}", json={**begun, "stream": True}, timeout=PATIENCE) as one,
    ):
        live.send(json.dumps({"type": "start", "prompt": "Hello."}))
        while json.loads(live.recv(PATIENCE))["type"] != "ready":
            pass
        lines = one.iter_lines()
        next(lines)
        going.start()
        told = []
        with suppress(ConnectionClosed):
            while True:
                told.append(json.loads(live.recv(PATIENCE)))
        assert (live.close_code, told[-1]["type"], told[-1]["reason"]) == (1012, "session_end", "stopping")
        assert {"role": "user", "content": "Hello."} in told[-1]["prefill"]
        assert "[DONE]" in "".join(lines)
    going.join()


@pytest.mark.parametrize("name", ["ray_serve.yaml", "rayservice.yaml"])
def test_examples_are_what_serves_own_schema_and_the_application_expect(name):
    from ray.serve.schema import ServeDeploySchema

    from mossvl.ray import AppArgs

    given = yaml.safe_load((ROOT / "examples/deployment" / name).read_text())
    given = yaml.safe_load(given["spec"]["serveConfigV2"]) if "spec" in given else given
    (application,) = ServeDeploySchema.model_validate(given).applications
    args = AppArgs.model_validate(application.args)
    assert args.engine_config() and args.server_config()
    assert args.autoscaling_config["max_replicas"] == 4
    module, _, builder = application.import_path.partition(":")
    assert callable(getattr(__import__(module, fromlist=[builder]), builder))


def test_arguments_of_a_command_are_texts():
    from mossvl.ray import AppArgs

    args = AppArgs.model_validate(
        {"tensor_parallel_size": "2", "engine": '{"max_batch": 8}', "api_keys": "secret", "lora": '{"a": "/a"}'}
    )
    assert args.engine_config().tensor_parallel_size == 2 and args.engine_config().max_batch == 8
    assert args.server_config().api_keys == ("secret",)


def test_an_application_is_built_before_a_cluster_is_there_as_serve_run_does():
    code = (
        "import mossvl.ray, ray\n"
        "app = mossvl.ray.build_app(mossvl.ray.AppArgs(device='cuda', tensor_parallel_size=2))\n"
        "assert not ray.is_initialized()\n"
        "found = app._bound_deployment._replica_config\n"
        "print(found.ray_actor_options['num_gpus'], found.placement_group_strategy, found.placement_group_bundles)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert run.stdout == "2 STRICT_PACK [{'CPU': 1.0, 'GPU': 2.0}]\n", run.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"engine": {"max_batc": 3}}, "did you mean 'max_batch'"),
        ({"engine": {"device": "cpu"}}, "device is an argument of its own"),
        ({"server": {"port": 3}}, "port is Serve's to say"),
        ({"server": {"max_token": 3}}, "did you mean 'max_tokens'"),
        ({"device": "cuda"}, "needs 1 GPUs of one node"),
        ({"num_replicas": 1, "autoscaling_config": {}}, "exclude each other"),
    ],
)
def test_a_mistake_is_told_before_a_replica_starts(cluster, args, message):
    from mossvl.ray import AppArgs, build_app

    with pytest.raises(OptionError, match=message):
        build_app(AppArgs(**args))
