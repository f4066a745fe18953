"""A frame that is too large for one step is encoded in parts: others go on, and nothing else changes."""

import copy
import threading
import time

import pytest
import torch

from mossvl import SamplingParams
from mossvl.device.budget import budget_for, even_patches
from mossvl.device.large_frame import LargeFrame
from mossvl.errors import GenerationCancelled, GenerationTimeout, ResourceError
from mossvl.model.vision_ops import PLAIN
from mossvl.options.engine import EngineConfig
from mossvl.scheduling.budget import StepBudget
from mossvl.sources.files import Load
from mossvl.sources.source import Stalled

SIDE = 512
LARGE = {"vision_patches": 64, "mixed_vision_patches": 16, "vision_cache": 0, "prefix_cache": False}
"""A picture of SIDE² pixels takes hundreds of steps."""
FREE = SamplingParams(max_new_tokens=20, ignore_eos=True)


def picture(seed=0, side=SIDE):
    noise = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (side, side, 3), dtype=torch.uint8, generator=noise).numpy()


def asking(text="yes", **options):
    return {"prompt": text, "images": [picture()], "generate_kwargs": {"max_new_tokens": 5, **options}}


def begun(llm):
    """How much of large frames is encoded, by request."""
    return [request.partly for request in list(llm.engine.scheduler.running) if request.partly]


def wait_until_begun(llm, handle):
    """The query has begun with its large frame, or has ended before that, as one of little time may."""
    while not begun(llm) and not handle.ended:
        time.sleep(0.001)


@pytest.mark.parametrize("grid", [(2, 2), (6, 10), (32, 18)])
@pytest.mark.parametrize("steps", [1, 7, 1000])
@pytest.mark.parametrize("pairs", [1, 1 << 12, 1 << 30])
def test_parts_make_up_the_whole(model, grid, steps, pairs, monkeypatch):
    monkeypatch.setattr("mossvl.device.large_frame.CPU_PAIRS", pairs)
    monkeypatch.setattr("mossvl.device.large_frame.ROWS", 8)
    tower, patches = model.model.visual, grid[0] * grid[1]
    pixels = torch.randint(0, 256, (patches, tower.patch_embed.proj.weight[0].numel()), dtype=torch.uint8)
    with torch.inference_mode():
        expected = tower(pixels, [(1, *grid)])
        large = LargeFrame(tower, pixels, grid, PLAIN)
        for step in range(1, steps):
            assert large.advance(step / steps) is None
            assert large.done >= step / steps - 1e-6
        torch.testing.assert_close(large.advance(1.0), expected, rtol=1e-4, atol=1e-5)
        assert large.done == pytest.approx(1)


@pytest.mark.parametrize(("pairs", "parts"), [(60 * 16 + 59, [16, 16, 16, 12]), (59, [1] * 60)])
def test_parts_are_as_much_of_all_as_they_are_work(pairs, parts, model, monkeypatch):
    monkeypatch.setattr("mossvl.device.large_frame.CPU_PAIRS", pairs)
    tower = model.model.visual
    pixels = torch.zeros((60, tower.patch_embed.proj.weight[0].numel()), dtype=torch.uint8)
    even = sum(weight.numel() for weight in tower.blocks[0].parameters()) / (2 * 48)
    quarter, attention = even / (even + 60) / 5 / 4, 60 / (even + 60) / 5  # of five blocks
    block = [quarter, *(attention * queries / 60 for queries in parts), quarter, quarter, quarter]
    shares = []
    with torch.inference_mode():
        large = LargeFrame(tower, pixels, (6, 10), PLAIN)
        for _ in range(len(block) * 5):
            before = large.done
            assert large.advance(before) is None and large.done == before
            large.advance(before + 1e-9)
            shares.append(large.done - before)
    assert shares == pytest.approx(block * 5)


def test_linears_are_computed_by_rows_of_bounded_number(model, monkeypatch):
    monkeypatch.setattr("mossvl.device.large_frame.ROWS", 16)
    tower, rows = model.model.visual, []
    pixels = torch.zeros((60, tower.patch_embed.proj.weight[0].numel()), dtype=torch.uint8)
    for module in tower.modules():
        if isinstance(module, torch.nn.Linear):
            monkeypatch.setattr(module, "forward", lambda x, call=module.forward: rows.append(len(x)) or call(x))
    shares = []
    with torch.inference_mode():
        large = LargeFrame(tower, pixels, (6, 10), PLAIN)
        while large.done < 1 - 1e-9:
            before = large.done
            assert large.advance(before + 1e-12) is None
            shares.append(large.done - before)
    assert set(rows) == {16, 12} and len(rows) == 5 * 4 * 4
    even = even_patches(tower)
    linear = even / (even + 60) / 5 / 4  # of five blocks, each with four linears
    by_rows = [linear * share / 60 for share in (16, 16, 16, 12)]
    block = [*by_rows, 60 / (even + 60) / 5, *(share for share in by_rows for _ in range(3))]
    assert shares == pytest.approx(block * 5)


def test_others_are_answered_while_a_large_frame_is_encoded(make):
    llm = make(**LARGE)
    expected = llm.generate("yes", FREE).token_ids
    large = llm.submit(asking())
    wait_until_begun(llm, large)
    other, beside = llm.submit("yes", FREE), []
    other.when_ended(lambda: beside.append(bool(begun(llm))))  # In the engine's thread, which then goes on.
    assert other.result(120).token_ids == expected
    assert beside == [True]
    assert large.result(120).error is None


def test_an_answer_about_a_large_frame_is_that_of_one_encoded_at_once(make):
    query = asking(max_new_tokens=12, ignore_eos=True)
    assert make(**LARGE).generate(query).token_ids == make(vision_cache=0).generate(query).token_ids


@pytest.mark.parametrize(("reason", "options"), [(GenerationCancelled, {}), (GenerationTimeout, {"timeout": 0.5})])
def test_a_query_ends_within_its_large_frame(reason, options, make, monkeypatch):
    monkeypatch.setattr("mossvl.device.large_frame.CPU_PAIRS", 1)
    llm = make(**{**LARGE, "vision_patches": 1, "mixed_vision_patches": 1})
    handle = llm.submit({**asking(**options), "images": [picture(side=4 * SIDE)]})
    wait_until_begun(llm, handle)
    if not options:
        handle.cancel()
    assert isinstance(handle.wait(60).error, reason)
    assert not begun(llm)


def test_a_large_frame_for_which_memory_does_not_suffice_costs_its_query_only(make, monkeypatch):
    llm = make(**LARGE)
    expected = llm.generate("yes", FREE).token_ids
    advance = LargeFrame.advance

    def short_of_memory(self, until):
        if until > 0.3:  # Also when the frame is tried again, from its start.
            raise torch.OutOfMemoryError("injected")
        return advance(self, until)

    monkeypatch.setattr(LargeFrame, "advance", short_of_memory)
    large, beside = llm.submit(asking()), llm.submit("yes", FREE)
    assert isinstance(large.wait(60).error, ResourceError)
    assert beside.result(60).token_ids == expected


# --- budgets ---------------------------------------------------------------------------------------------------------


def weights_of(layers):
    return sum(weight.numel() for weight in layers.parameters())


@pytest.mark.parametrize(("tokens", "patches"), [(1, 1), (100, 300), (5000, 60_000)])
def test_a_step_on_a_cpu_is_bounded_by_the_work_of_the_model(tokens, patches, model, monkeypatch):
    language, vision = (weights_of(part) for part in (model.model.language_model.layers, model.model.visual.blocks))
    monkeypatch.setattr("mossvl.device.budget.CPU_FLOPS", 2 * language * tokens + 1)
    assert budget_for(EngineConfig(), model).tokens == min(4096, max(64, tokens))
    monkeypatch.setattr("mossvl.device.budget.CPU_FLOPS", 2 * vision * patches + 1)
    budget = budget_for(EngineConfig(), model)
    assert budget.patches == min(57_344, max(256, patches))
    assert budget.even == even_patches(model.model.visual)


def test_a_step_on_a_gpu_is_bounded_alike_for_all_models(model):
    budget = budget_for(EngineConfig(), copy.deepcopy(model).to("meta"))
    assert (budget.tokens, budget.patches) == (4096, 57_344)
    assert budget.even == even_patches(model.model.visual)


def test_bounds_that_nobody_names_are_those_of_a_gpu():
    assert StepBudget() == StepBudget.of(EngineConfig())


def test_what_settings_say_counts(model):
    config = EngineConfig(prefill_tokens=7, vision_patches=9, mixed_prefill_tokens=20, mixed_vision_patches=5)
    budget = budget_for(config, model)
    assert (budget.tokens, budget.patches, budget.mixed_tokens, budget.mixed_patches) == (7, 9, 7, 5)
    config = EngineConfig(prefill_tokens=20, vision_patches=5, mixed_prefill_tokens=7, mixed_vision_patches=9)
    budget = StepBudget.of(config)
    assert (budget.tokens, budget.patches, budget.mixed_tokens, budget.mixed_patches) == (20, 5, 7, 5)
    assert budget == StepBudget.of(config, even=float("inf"))


def test_a_frame_of_as_many_patches_as_attention_makes_even_is_twice_the_work():
    budget = StepBudget(mixed_patches=100, even=400)
    assert [budget.work(patches) for patches in (0, 4, 400, 800)] == [0, pytest.approx(4.04), 800, 2400]
    assert [budget.is_large(patches) for patches in (400, 401)] == [False, True]
    assert StepBudget().work(1000) == 1000  # As long as nothing is known of a model.


def test_attention_is_as_much_as_the_rest_at_this_many_patches(model):
    """Of a patch: 2 FLOPs a weight, and for each other patch 2 for a score and 2 for a value, of each channel."""
    tower = model.model.visual
    assert 4 * 48 * even_patches(tower) == 2 * weights_of(tower.blocks[0])


def test_a_large_frame_that_another_query_has_finished_is_taken_from_there(make, monkeypatch):
    monkeypatch.setattr("mossvl.device.large_frame.CPU_PAIRS", 1 << 12)
    llm = make(**{**LARGE, "vision_cache": 1 << 28})
    large, other, small = picture(0), picture(1), picture(2, side=64)
    queries = [{**asking(), "images": images} for images in ([other, large], [large, small])]
    expected = [make(vision_cache=0).generate(query).token_ids for query in queries]
    gate, expect = threading.Event(), Load._expect

    def late(self, plan, frame, digest):
        if frame == 1 and self.query.turn[0]["content"][0]["image"] is other:
            self._report(Stalled())
            gate.wait(60)
        expect(self, plan, frame, digest)

    monkeypatch.setattr(Load, "_expect", late)
    first = llm.submit(queries[0])
    while not any(one.owner.handle is first for one in list(llm.engine.scheduler.running)):
        time.sleep(0.001)
    second = llm.submit(queries[1])
    while not any(one.partly and one.owner.handle is second for one in list(llm.engine.scheduler.running)):
        time.sleep(0.001)
    gate.set()
    assert [one.result(120).token_ids for one in (first, second)] == expected
