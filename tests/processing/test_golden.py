"""Queries become exactly the reference implementation's inputs."""

from contextlib import ExitStack

import pytest
import torch
from golden_cases import CASES, LABELS, TABLES

from mossvl.processing import sampling, sizes
from mossvl.processing.messages import media_of
from mossvl.queries.query import Query


def plan_case(processor, case, stack):
    query = Query.from_dict(case["query"])
    messages = query.messages([])
    return processor.plan(processor.render(messages), *media_of(messages), query.media, stack)


@pytest.fixture(params=CASES)
def name(request):
    return request.param


def test_prompt_and_tokens(name, processor):
    with ExitStack() as stack:
        planned = plan_case(processor, CASES[name], stack)
    assert planned.text == CASES[name]["input_text"]
    assert planned.expanded.text == CASES[name]["decoded_prompt"]
    assert planned.input_ids.tolist() == CASES[name]["input_ids"]


def test_videos(name, processor):
    with ExitStack() as stack:
        plans = [plan for plan in plan_case(processor, CASES[name], stack).plans if plan.timestamps is not None]
        for plan, expected in zip(plans, CASES[name].get("videos", []), strict=True):
            assert plan.timestamps == pytest.approx(expected["timestamps"], abs=1e-6)
            assert (plan.source.height, plan.source.width) == (expected["height"], expected["width"])
            assert plan.source.average_fps == pytest.approx(expected["fps"], rel=1e-12)
            assert plan.source.duration == pytest.approx(expected["duration"], rel=1e-12)
            if expected["frame_indices"] is not None:
                assert list(plan.indices) == expected["frame_indices"]


def test_inputs(name, processor, reference):
    query = Query.from_dict(CASES[name]["query"])
    messages = query.messages([])
    images, videos = media_of(messages)
    options = {name: value for name, value in vars(query.media).items() if value is not None}
    batch = processor(processor.render(messages), images, videos, blank_image_for_text=True, **options)
    assert batch["input_ids"].tolist() == [CASES[name]["input_ids"]]
    assert batch["grid_thw"].tolist() == CASES[name]["grid_thw"]
    assert batch["media_nums_per_sample"] == CASES[name]["media_nums_per_sample"]
    expected = reference[f"{name}.pixel_values"]
    if images or videos:
        assert torch.equal(((batch["pixel_values"] + 1) * 127.5).round().to(torch.uint8), expected)
        assert torch.equal(batch["pixel_values"], (expected.float() / 255 - 0.5) / 0.5)
        assert torch.equal(batch["cross_attention_mask"], reference[f"{name}.cross_attention_mask"].bool())


@pytest.mark.parametrize("case", LABELS, ids=["image", "video"])
def test_labels_and_loss(case, processor, model):
    batch = processor(case["text"], case["images"], case["videos"], labels_spans=case["labels_spans"])
    assert batch["input_ids"].tolist() == [case["input_ids"]]
    assert batch["labels"].tolist() == [case["labels"]]
    with torch.no_grad():
        assert model(**batch).loss.item() == pytest.approx(case["loss"], abs=1e-5)


@pytest.mark.parametrize("case", TABLES["image_smart_resize"])
def test_image_sizes(case):
    size = sizes.image_size(case["height"], case["width"], case["factor"], case["min_pixels"], case["max_pixels"])
    assert list(size) == case["result"]


@pytest.mark.parametrize("case", TABLES["video_smart_resize"])
def test_frame_sizes(case):
    size = sizes.frame_size(
        case["num_frames"],
        case["height"],
        case["width"],
        case["factor"],
        case["frame_min_pixels"],
        case["frame_max_pixels"],
        case["volume_max_pixels"],
    )
    assert list(size) == case["result"]


@pytest.mark.parametrize("case", TABLES["num_frames"])
def test_frame_counts(case):
    arguments = (case[name] for name in ("total_num_frames", "duration", "video_fps", "min_frames", "max_frames"))
    assert sampling.frame_count(*arguments) == case["result"]


@pytest.mark.parametrize("case", TABLES["frame_indices"])
def test_frame_indices_and_timestamps(case):
    indices = sampling.frame_indices(case["total_num_frames"], case["num_frames"])
    assert indices == case["result"]
    assert [f"{index / case['fps']:.1f}" for index in indices] == case["timestamps"]


@pytest.mark.parametrize("case", TABLES["max_frames_allocation"])
def test_frame_allocation(case):
    assert sampling.allocate_frames(case["durations"], case["max_frames"]) == case["result"]
