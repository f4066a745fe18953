"""Streaming, cancelling, time-outs, closing."""

import gc
import queue
import threading
import time
import weakref

import pytest
from golden_cases import MEDIA

from mossvl.errors import OptionError

CLIP, SHAPES = str(MEDIA / "clip_40s.mp4"), str(MEDIA / "shapes.png")
LONG = {"max_new_tokens": 400}


def media_threads():
    return [thread for thread in threading.enumerate() if thread.name == "mossvl-media"]


def test_a_batch_streams_its_answers_and_then_the_result(model, processor):
    queries = [{"prompt": text, "images": [SHAPES], "generate_kwargs": {"max_new_tokens": 9}} for text in "abc"]
    texts = {0: "", 1: "", 2: ""}
    for index, chunk in model.offline_batch_stream(processor, queries):
        if index is None:
            result = chunk
        else:
            texts[index] += chunk
    assert [one["text"] for one in result["results"]] == list(texts.values())
    assert result == model.offline_batch_generate(processor, queries)


def test_one_query_is_cancelled_alone(model, processor):
    queries = [{"prompt": text, "generate_kwargs": {"max_new_tokens": 60}} for text in ("yes", "no", "one")]
    alone = model.offline_batch_generate(processor, [queries[0], queries[2]])["results"]
    stream = model.offline_batch_stream(processor, queries)
    seen = ""
    for index, chunk in stream:
        if index == 1:
            seen += chunk
            threading.Thread(target=stream.cancel, args=(1,)).run()
    results = stream.result["results"]
    assert [results[0]["text"], results[2]["text"]] == [one["text"] for one in alone]
    assert results[1]["error"] == "cancelled before the answer was complete"
    assert results[1]["text"].startswith(seen)
    assert len(results[1]["text"]) < len(results[0]["text"])
    assert stream.result["session_states"][1] == []


def test_a_cancelled_turn_joins_the_session_only_on_request(model, processor):
    query = {"prompt": "yes", "generate_kwargs": LONG, "persist_cancelled_turn": True}
    stream = model.offline_batch_stream(processor, [query])
    next(stream)
    stream.cancel(0)
    result = stream.wait()
    assert result["session_states"][0][-1] == {"role": "assistant", "content": result["results"][0]["text"]}


def test_cancelling_a_query_that_does_not_exist_is_refused(model, processor):
    with pytest.raises(OptionError, match="no query 4"):
        model.offline_batch_stream(processor, [{"prompt": "a"}]).cancel(4)


def test_closing_ends_everything_soon(model, processor):
    with model.offline_batch_stream(
        processor, [{"prompt": "a", "videos": [CLIP], "generate_kwargs": LONG}] * 3
    ) as stream:
        next(stream)
    result = stream.wait()
    assert all("cancelled" in one["error"] for one in result["results"])


def test_a_timeout_ends_its_query_only(model, processor):
    queries = [
        {"prompt": "yes", "generate_kwargs": {**LONG, "max_new_tokens": 100_000, "timeout": 0.5}},
        {"prompt": "yes", "generate_kwargs": {"max_new_tokens": 5}},
    ]
    first, second = model.offline_batch_generate(processor, queries)["results"]
    assert "longer than its timeout of 0.5 seconds" in first["error"]
    assert "error" not in second


def test_media_that_hang_end_with_the_timeout_and_hold_up_nobody(model, processor, monkeypatch):
    release = threading.Event()
    plan = type(processor).plan_media

    def hanging(self, text, images, videos, *rest):
        if images == ["hangs.png"]:
            release.wait(20)
        return plan(self, text, images, videos, *rest)

    monkeypatch.setattr(type(processor), "plan_media", hanging)
    queries = [
        {"prompt": "a", "images": ["hangs.png"], "generate_kwargs": {"timeout": 0.3, "max_new_tokens": 2}},
        {"prompt": "a", "generate_kwargs": {"max_new_tokens": 2}},
    ]
    begun = time.monotonic()
    first, second = model.offline_batch_generate(processor, queries)["results"]
    assert "timeout" in first["error"]
    assert "error" not in second
    assert time.monotonic() - begun < 15
    release.set()


def test_no_thread_is_left_behind(model, processor):
    for timeout in (0.001, 60):
        model.offline_batch_generate(
            processor, [{"prompt": "a", "videos": [CLIP], "generate_kwargs": {"timeout": timeout, "max_new_tokens": 1}}]
        )
    deadline = time.monotonic() + 10
    while media_threads() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not media_threads()


def test_a_query_that_loads_slowly_does_not_hold_up_the_others(model, processor, monkeypatch):
    release, waited = threading.Event(), []
    plan = type(processor).plan_media
    model.engine().clear_caches()  # A file that is known is not planned again.

    def slow(self, text, images, videos, *rest):
        if images:
            waited.append(release.wait(60))
        return plan(self, text, images, videos, *rest)

    monkeypatch.setattr(type(processor), "plan_media", slow)
    queries = [
        {"prompt": "yes", "generate_kwargs": {"max_new_tokens": 30}},
        {"prompt": "a", "images": [SHAPES], "generate_kwargs": {"max_new_tokens": 2}},
    ]
    pieces = 0
    for index, _ in model.offline_batch_stream(processor, queries):
        pieces += index == 0
        if pieces == 10:
            release.set()
    assert waited == [True]


def test_a_timeout_counts_from_the_start_of_its_query(model, processor):
    stream = model.offline_batch_stream(
        processor, [{"prompt": "yes", "generate_kwargs": {"max_new_tokens": 1, "timeout": 20}}]
    )
    time.sleep(0.5)
    assert "error" not in stream.wait()["results"][0]


def test_a_failed_query_lets_go_of_its_tensors(model, processor, monkeypatch):
    alive = []
    encode = type(model.model).encode_vision
    model.engine().clear_caches()

    def failing(self, pixel_values, *rest, **options):
        alive.append(weakref.ref(pixel_values))
        encode(self, pixel_values, *rest, **options)
        raise RuntimeError("out of something")

    monkeypatch.setattr(type(model.model), "encode_vision", failing)
    monkeypatch.setattr("mossvl.engine.loop.logger.warning", lambda *_, **__: None)  # pytest would keep its traceback.
    stream = model.offline_batch_stream(processor, [{"prompt": "a", "images": [SHAPES]}])
    assert "out of something" in stream.wait()["results"][0]["error"]
    gc.collect()
    assert [reference() for reference in alive] == [None]


def test_a_loop_whose_answers_nobody_reads_can_be_stopped(model, processor):
    queries, answers = queue.Queue(), queue.Queue(maxsize=1)
    thread = threading.Thread(target=model.offline_generate, args=(processor, queries, answers), daemon=True)
    thread.start()
    queries.put({"prompt": "yes", "stream": True, "generate_kwargs": {"max_new_tokens": 50}})
    assert answers.get(timeout=30) == "<|round_start|>"
    queries.put({"stop_offline_generate": True})
    thread.join(20)
    assert not thread.is_alive()


class Loop:
    """`offline_generate` in a thread."""

    def __init__(self, model, processor):
        self.queries, self.answers = queue.Queue(), queue.Queue()
        self.thread = threading.Thread(
            target=model.offline_generate, args=(processor, self.queries, self.answers), daemon=True
        )
        self.thread.start()

    def until(self, mark):
        output = []
        while not output or output[-1] != mark:
            output.append(self.answers.get(timeout=30))
        return output

    def stop(self):
        self.queries.put({"stop_offline_generate": True})
        self.thread.join(10)
        assert not self.thread.is_alive()


@pytest.fixture
def loop(model, processor):
    loop = Loop(model, processor)
    yield loop
    loop.stop()


@pytest.mark.parametrize("control", ["cancel_current_generate", "stop_generation"])
def test_a_turn_is_cancelled_and_the_next_one_works(control, loop):
    loop.queries.put({"prompt": "yes", "stream": True, "generate_kwargs": {"max_new_tokens": 100_000}})
    assert loop.answers.get(timeout=30) == "<|round_start|>"
    loop.answers.get(timeout=30)
    loop.queries.put({control: True})
    loop.until("<|round_end|>")
    loop.queries.put({"prompt": "yes", "generate_kwargs": {"max_new_tokens": 10}})
    # The same as in a new session: the cancelled turn has left nothing.
    assert loop.until("<|round_end|>")[0] == " fram fram fram fram fram six fram six fram six"


def test_stopping_ends_turn_and_loop(model, processor):
    loop = Loop(model, processor)
    loop.queries.put({"prompt": "yes", "stream": True, "generate_kwargs": {"max_new_tokens": 100_000}})
    loop.answers.get(timeout=30)
    loop.stop()
    assert loop.until("<|round_end|>")


def test_queries_that_come_during_a_turn_wait_in_order(loop):
    for text in ("yes", "And then?", "Describe"):
        loop.queries.put({"prompt": text, "reset_session": True, "generate_kwargs": {"max_new_tokens": 4}})
    loop.queries.put("not a query")
    answers = [loop.until("<|round_end|>")[0] for _ in range(3)]
    assert len(set(answers)) == 3
    for text, answer in zip(("yes", "And then?", "Describe"), answers, strict=True):
        loop.queries.put({"prompt": text, "reset_session": True, "generate_kwargs": {"max_new_tokens": 4}})
        assert loop.until("<|round_end|>")[0] == answer


def test_a_query_of_nothing_ends_its_round(loop):
    loop.queries.put({})
    assert loop.until("<|round_end|>")[0] == "[ERROR] a query needs either a prompt or messages"


def test_an_error_in_a_streamed_turn_is_told(loop):
    loop.queries.put({"prompt": "a", "images": ["nothing.png"], "stream_output": True})
    output = loop.until("<|round_end|>")
    assert output[0].startswith("[ERROR]")
    assert "nothing.png" in output[0]


def test_a_cancelled_turn_stays_in_the_loops_session_on_request(loop):
    query = {"prompt": "yes", "stream": True, "generate_kwargs": {"max_new_tokens": 100_000}}
    loop.queries.put({**query, "persist_cancelled_turn": True})
    for _ in range(3):
        loop.answers.get(timeout=30)
    loop.queries.put({"stop_generation": True, "prompt": "yes", "generate_kwargs": {"max_new_tokens": 10}})
    loop.until("<|round_end|>")
    assert loop.until("<|round_end|>")[0] != " fram fram fram fram fram six fram six fram six"
