"""`mossvl bench` measures what it says, and says what it measured."""

import json
import os

import pytest
import torch

from mossvl.bench import media as media_bench
from mossvl.bench import report
from mossvl.bench.clients import Seen
from mossvl.bench.hardware import describe
from mossvl.bench.measure import Bench, Row
from mossvl.bench.pictures import changed, noise, query_of
from mossvl.bench.prompts import IMAGE, VIDEO_64, VIDEO_256, RandomPrompt, Shape, random_pixels
from mossvl.cli.bench import Clients, measure_server
from mossvl.engine.engine import Engine
from mossvl.options.engine import EngineConfig
from mossvl.processing import crew

SMALL = Shape("3 frames", 3, 4, 6, question=7)


@pytest.fixture
def bench(model):
    engine = Engine(model, EngineConfig(memory=1 << 24))
    yield Bench(engine, {"bytes_per_second": 1e9, "flops_per_second": 1e9}, repeats=1)
    engine.close()


def test_prompts_have_the_sizes_that_are_measured():
    sizes = [(shape.text_tokens, shape.vision_tokens) for shape in (IMAGE, VIDEO_64, VIDEO_256)]
    assert sizes == [(73, 1025), (712, 12_608), (2632, 56_576)]


def test_an_answer_has_as_many_tokens_as_are_timed(bench):
    result = bench.answer(SMALL, 5)
    assert result.error is None
    assert result.usage.prompt_tokens == SMALL.text_tokens
    assert result.usage.vision_tokens == SMALL.vision_tokens
    assert len(result.token_ids) == 5


def test_new_prompts_find_nothing_and_second_questions_find_the_frames(bench):
    assert bench.answer(SMALL, 2).usage.cached_tokens == 0
    assert bench.answer(SMALL, 2).usage.cached_tokens == 0
    long = Shape("20 frames", 20, 2, 2)
    prompt = RandomPrompt.new(long, bench.config, random_pixels(long))
    bench.ask(prompt, 1).wait()
    assert bench.ask(prompt.again(), 1).wait().usage.cached_tokens == 192


def test_requests_together_give_a_rate(bench, monkeypatch):
    monkeypatch.setattr("mossvl.bench.measure.SMALL_IMAGE", SMALL)
    monkeypatch.setattr("mossvl.bench.measure.ANSWER", 4)
    rate, step = bench._together(3)
    assert rate > 0 and step > 0


def test_videos_together_give_a_rate_and_the_longest_gap(bench, monkeypatch):
    monkeypatch.setattr("mossvl.bench.measure.VIDEO_64", SMALL)
    monkeypatch.setattr("mossvl.bench.measure.VIDEOS", 3)
    monkeypatch.setattr("mossvl.bench.measure.VIDEO_ANSWER", 5)
    rate, gap = bench.videos()
    assert rate.unit == "videos/s" and rate.note == f"{3 * rate.value:.0f} frames/s"
    assert gap.unit == "ms" and gap.value > 0 and gap.note == "to be kept below 100 ms"


def test_a_server_is_measured_with_clients_of_other_processes(bench, processor, monkeypatch):
    monkeypatch.setattr("mossvl.bench.serve.ANSWER", 4)
    monkeypatch.setattr(bench, "alone", lambda count: [10.0 * count, 30.0 * count])
    alone, output, first, whole = measure_server(bench, Clients(2, 1, 2.0, processor))
    assert (alone.value, alone.all) == (40.0, [20.0, 60.0])
    assert output.value > 0 and f"{100 * output.value / 40:.0f} % of the engine alone" in output.note
    assert 0 < first.value < whole.value and f"{len(whole.all)} answers" in output.note


def test_of_an_answer_that_ends_later_only_what_came_in_time_counts():
    answer = Seen(begun=1.0, first=2.0, ended=6.0)
    assert [answer.share_before(end) for end in (1.5, 2.0, 3.0, 6.0, 9.0)] == [0.0, 0.0, 0.25, 1.0, 1.0]


def test_weights_that_a_step_reads_leave_out_what_vision_alone_needs(bench):
    language = bench.engine.model.model.language_model
    everything = sum(weight.nbytes for weight in language.layers.parameters())
    assert 0 < bench.weight_bytes < everything + bench.engine.model.lm_head.weight.nbytes


def test_reports(tmp_path):
    rows = [Row("first token", 12.345, "ms", [12.0, 13.0], "9 TFLOP/s")]
    hardware = describe(torch.device("cpu"))
    table = report.markdown("Latency", hardware, {"bytes_per_second": 3e12, "flops_per_second": 7e14}, rows)
    assert "| first token | 12.3 ms | 12 … 13 | 9 TFLOP/s |" in table
    assert "a copy moved 3.00 TB/s" in table
    assert f"torch {torch.__version__.split('+')[0]}" in table
    report.write(tmp_path / "results.json", {"latency": rows})
    assert json.loads((tmp_path / "results.json").read_text())["latency"][0]["value"] == 12.345


def test_media_are_measured_from_a_file_to_patches(monkeypatch):
    monkeypatch.setattr(media_bench, "CLIPS", {"tiny": (64, 96)})
    monkeypatch.setattr(media_bench, "SECONDS", 2)
    planning, loading = media_bench.media(1)
    assert planning.unit == "ms" and loading.unit == "frames/s"
    assert loading.value > 0


def test_media_are_measured_by_cores_and_leave_threads_as_they_are(monkeypatch):
    queries = {"list": lambda _: query_of(noise(3, 64, 64)), "batch": lambda _: query_of(*noise(2, 64, 64))}
    monkeypatch.setattr(media_bench, "_QUERIES", queries)
    for module in (crew, media_bench):
        monkeypatch.setattr(module, "cores", lambda: 3)
    before = torch.get_num_threads(), getattr(os, "sched_getaffinity", bool)(0)
    rows = list(media_bench.by_cores(1))
    names = [f"{name}: {cores}" for name in queries for cores in ("1 core", "2 cores", "3 cores")]
    assert [row.name for row in rows] == names and all(row.value > 0 for row in rows)
    assert before == (torch.get_num_threads(), getattr(os, "sched_getaffinity", bool)(0))


def test_changed_pictures_are_new_ones():
    (picture,) = noise(1, 8, 8)
    seen = set()
    for number in (0, 1, 255, 256, 65_536):
        changed([picture], number)
        seen.add(picture.tobytes())
    assert len(seen) == 5


def test_first_tokens_from_pictures_in_memory_and_second_questions(bench, monkeypatch):
    monkeypatch.setattr("mossvl.bench.measure.WARM_UPS", 1)
    for name, shape in (("IMAGE", Shape("image", 1, 4, 6)), ("VIDEO_64", SMALL), ("VIDEO_256", Shape("4", 4, 4, 4))):
        monkeypatch.setattr(f"mossvl.bench.measure.{name}", shape)
    rows = list(bench.from_pictures())
    assert [row.name.rpartition(": ")[2] for row in rows] == ["first token", "second question"] * 3
    assert all(row.value > 0 and len(row.all) == 1 for row in rows)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_or_weights_it_says_so(command):
    for part in (["latency", "--random"], ["tune"]):
        assert "measured on a GPU" in command("bench", *part).stderr
    assert "give a --checkpoint or --random" in command("bench", "latency", env={"MOSSVL_CHECKPOINT": ""}).stderr
