"""A frame that is too large for one step is encoded in parts: others go on, and nothing else changes."""

import time

import pytest
import torch

from mossvl import SamplingParams
from mossvl.engine.budget import StepBudget, even_patches
from mossvl.engine.config import EngineConfig
from mossvl.engine.large_frame import LargeFrame
from mossvl.errors import GenerationCancelled, GenerationTimeout, ResourceError
from mossvl.model.vision_ops import PLAIN

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
    monkeypatch.setattr("mossvl.engine.large_frame.CPU_PAIRS", pairs)
    monkeypatch.setattr("mossvl.engine.large_frame.ROWS", 8)
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


def test_others_are_answered_while_a_large_frame_is_encoded(make):
    llm = make(**LARGE)
    expected = llm.generate("yes", FREE).token_ids
    large = llm.submit(asking())
    wait_until_begun(llm, large)
    assert llm.generate("yes", FREE).token_ids == expected
    assert begun(llm) and not large.ended
    assert large.result(120).error is None


def test_an_answer_about_a_large_frame_is_that_of_one_encoded_at_once(make):
    query = asking(max_new_tokens=12, ignore_eos=True)
    assert make(**LARGE).generate(query).token_ids == make(vision_cache=0).generate(query).token_ids


@pytest.mark.parametrize(("reason", "options"), [(GenerationCancelled, {}), (GenerationTimeout, {"timeout": 0.5})])
def test_a_query_ends_within_its_large_frame(reason, options, make, monkeypatch):
    monkeypatch.setattr("mossvl.engine.large_frame.CPU_PAIRS", 1)
    llm = make(**{**LARGE, "vision_patches": 1, "mixed_vision_patches": 1})
    handle = llm.submit({**asking(**options), "images": [picture(side=4 * SIDE)]})
    wait_until_begun(llm, handle)
    if not options:
        handle.cancel()
    assert isinstance(handle.wait(60).error, reason)
    assert not begun(llm) and not llm.engine.runner.encoder._begun


def test_a_large_frame_for_which_memory_does_not_suffice_costs_its_query_only(make, monkeypatch):
    llm = make(**LARGE)
    expected = llm.generate("yes", FREE).token_ids
    advance = LargeFrame.advance

    def short_of_memory(self, until):
        if self.done > 0.3:
            raise torch.OutOfMemoryError("injected")
        return advance(self, until)

    monkeypatch.setattr(LargeFrame, "advance", short_of_memory)
    large, beside = llm.submit(asking()), llm.submit("yes", FREE)
    assert isinstance(large.wait(60).error, ResourceError)
    assert beside.result(60).token_ids == expected
    assert not llm.engine.runner.encoder._begun


# --- budgets ---------------------------------------------------------------------------------------------------------


def test_a_step_on_a_cpu_is_bounded_by_the_work_of_the_model(model):
    budget = StepBudget.for_model(EngineConfig(), model)
    weights = sum(weight.numel() for weight in model.model.visual.blocks.parameters())
    assert budget.patches == min(57_344, max(256, int(25e9 / 2 / weights)))
    assert budget.even == even_patches(model.model.visual)


def test_what_settings_say_counts(model):
    config = EngineConfig(prefill_tokens=7, vision_patches=9, mixed_prefill_tokens=20, mixed_vision_patches=5)
    budget = StepBudget.for_model(config, model)
    assert (budget.tokens, budget.patches, budget.mixed_tokens, budget.mixed_patches) == (7, 9, 7, 5)
