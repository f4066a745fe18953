"""With an adapter, the engine answers as PEFT's own model; beside it, the base answers as if there were no adapters."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from adapted_models import PARAMS, SHAPES, TEXT, TOKENS, logprobs_of
from golden_cases import CHECKPOINT, MEDIA

import mossvl
from mossvl import SamplingParams
from mossvl.device.executor import Executor
from mossvl.errors import OptionError
from mossvl.options.engine import EngineConfig
from mossvl.scheduling.pages import NO_ADAPTER

HELLO = {"prompt": "Why?"}
CLIP = {"prompt": "And here?", "videos": [str(MEDIA / "clip_10fps_6s.mp4")], "media_kwargs": {"max_frames": 3}}
MERGER = r"model\.visual\.merger\.linear_fc\d"
TOWER = r"model\.visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.linear_fc\d)"
KINDS = {
    "all maps of the decoder": {},
    "names of maps": {"target_modules": ["q_proj", "down_proj"]},
    "all linear maps": {"target_modules": "all-linear"},
    "rslora": {"use_rslora": True, "r": 9},
    "ranks of patterns": {
        "rank_pattern": {r"layers\.\d+\.mlp\.up_proj": 2, "k_proj": 7},
        "alpha_pattern": {"k_proj": 5},
    },
    "some layers": {"target_modules": ["v_proj"], "layers_to_transform": [1, 3], "layers_pattern": "layers"},
    "the merger": {"target_modules": MERGER},
    "the tower": {"target_modules": f"{TOWER}|{MERGER}"},
}


def asked(llm, query, lora=None, params=PARAMS):
    return llm.submit(query if lora is None else {**query, "lora": lora}, params)


@pytest.mark.parametrize("lora", KINDS.values(), ids=KINDS.keys())
def test_an_adapter_answers_as_pefts_own_model(lora, adapters, make):
    adapters.add("own", **lora)
    llm = make(lora=adapters.folders)
    for query in (SHAPES, HELLO):
        result = asked(llm, query, "own").result(60)
        tokens, logprobs = adapters.expected("own", query, result.input_text)
        assert result.token_ids == tokens
        torch.testing.assert_close(logprobs_of(result), logprobs, rtol=1e-4, atol=1e-4)


def test_adapters_of_several_ranks_and_the_base_answer_beside_each_other(adapters, make):
    for name, lora in {"one": {"r": 1}, "many": {"r": 16}, "merger": {"target_modules": f"{TEXT}|{MERGER}"}}.items():
        adapters.add(name, **lora)
    names = ["one", None, "many", "merger", None, "one"]
    cases = [(query, name) for query in (SHAPES, HELLO, CLIP) for name in names]
    alone = make(lora=adapters.folders, max_batch=1, prefix_cache=False, vision_cache=0)
    expected = [asked(alone, *case).result(60) for case in cases]
    handles = [asked(llm, *case) for llm in [make(lora=adapters.folders)] for case in cases]
    for handle, one in zip(handles, expected, strict=True):
        result = handle.result(60)
        assert result.token_ids == one.token_ids
        torch.testing.assert_close(logprobs_of(result), logprobs_of(one), rtol=1e-4, atol=1e-4)
    answers = {tuple(one.token_ids) for one in expected}
    assert len(answers) == 4 * 3  # Of three adapters and the base, to three questions.


def test_rows_of_the_base_have_the_same_logits_beside_adapters(adapters, make, monkeypatch):
    """To the bit: every step is computed a second time by an executor without adapters, all rows as the base's."""
    adapters.add("own")
    llm = make(lora=adapters.folders)
    executor = llm.engine.runner.executor
    plain, compared = Executor(llm.model, EngineConfig(memory=1 << 24)), []

    def both(name, own):
        def carried_out(rows, *given):
            base = rows if name == "prepare" else replace(rows, adapters=np.full_like(rows.adapters, NO_ADAPTER))
            expected, output = getattr(plain, name)(base, *given), own(rows, *given)
            if name == "compute":
                drawn = rows.adapters[rows.draw_rows] == NO_ADAPTER
                compared.append((drawn.all(), torch.equal(output[0][drawn], expected[0][drawn])))
                plain.last_tokens.copy_(executor.last_tokens)
            return output

        return carried_out

    for name in ("prepare", "store_vision", "compute"):
        monkeypatch.setattr(executor, name, both(name, getattr(executor, name)))
    handles = [asked(llm, query, name) for query in (SHAPES, HELLO) for name in (None, "own")]
    assert all(len(handle.result(60).token_ids) == TOKENS for handle in handles)
    assert all(same for _, same in compared) and sum(not alone for alone, _ in compared) >= TOKENS - 2


def test_a_prefix_is_reused_by_the_same_adapter_alone(adapters, make):
    adapters.add("one")
    adapters.add("two")
    llm = make(lora=adapters.folders, page_size=4)
    found = {name: asked(llm, SHAPES, name).result(60) for name in (None, "one", "two")}
    assert [result.usage.cached_tokens for result in found.values()] == [0, 0, 0]
    for name, first in found.items():
        again = asked(llm, SHAPES, name).result(60)
        assert again.usage.cached_tokens > 0 and again.token_ids == first.token_ids


@pytest.mark.parametrize(("target", "pictures"), [(TEXT, 1), (MERGER, 2)], ids=["decoder", "merger"])
def test_encoded_frames_are_shared_unless_an_adapter_changes_the_tower(target, pictures, adapters, make):
    adapters.add("own", target_modules=target)
    llm = make(lora=adapters.folders)
    for name in (None, "own", None, "own"):
        asked(llm, SHAPES, name).result(60)
    assert len(llm.engine.runner.vision_cache) == pictures


def test_requests_that_are_preempted_keep_their_adapters(adapters, make):
    adapters.add("one")
    adapters.add("merger", target_modules=f"{TEXT}|{MERGER}")
    params = SamplingParams(max_new_tokens=200, ignore_eos=True)
    cases = [(query, name) for query in (SHAPES, HELLO) for name in ("one", None, "merger")]
    expected = [asked(llm, *case, params) for llm in [make(lora=adapters.folders)] for case in cases]
    few = make(lora=adapters.folders, page_size=4, memory=700_000)
    handles = [asked(few, *case, params) for case in cases]
    assert [one.result(90).token_ids for one in handles] == [one.result(90).token_ids for one in expected]
    assert few.engine.scheduler.preemptions


def test_several_answers_to_a_query_have_its_adapter(adapters, make):
    adapters.add("own")
    llm = make(lora=adapters.folders)
    one = asked(llm, SHAPES, "own").result(60)
    many = asked(llm, SHAPES, "own", SamplingParams(max_new_tokens=TOKENS, ignore_eos=True, n=3)).result(60)
    assert [answer.token_ids for answer in many.answers] == [one.token_ids] * 3


@pytest.mark.parametrize(
    ("kind", "tolerance", "tokens"), [("nf4", 1e-3, TOKENS), ("fp8", 1e-3, TOKENS), ("int8", 0.2, 1)]
)
def test_adapters_of_quantized_weights_answer_as_pefts_own_model(kind, tolerance, tokens, adapters):
    """INT8 rounds inputs, too, so that the least difference may become one of a step."""
    model, processor = mossvl.load(CHECKPOINT, device="cpu", dtype="float32", quantization=kind)
    adapters.model = model
    adapters.add("own")
    with mossvl.MossVL(model, processor, memory=1 << 24, lora=adapters.folders) as llm:
        result = asked(llm, SHAPES, "own").result(60)
    ids, logprobs = adapters.expected("own", SHAPES, result.input_text)
    assert result.token_ids[:tokens] == ids[:tokens]
    torch.testing.assert_close(logprobs_of(result)[:tokens], logprobs[:tokens], rtol=tolerance, atol=tolerance)


def test_an_unknown_adapter_is_refused_with_those_that_there_are(adapters, make):
    adapters.add("animals")
    llm = make(lora=adapters.folders)
    with pytest.raises(OptionError, match="did you mean 'animals'"):
        asked(llm, HELLO, "animal")
    with pytest.raises(OptionError, match="lora=3 must be a text"):
        asked(llm, HELLO, 3)
    with pytest.raises(OptionError, match="there is none; leave it out"):
        asked(make(), HELLO, "animals")
