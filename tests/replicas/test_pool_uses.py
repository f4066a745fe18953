"""Replicas of several ranks, with adapters and quantized weights: the answers are those of one process."""

import pytest
from cut_models import random_checkpoint
from golden_cases import MEDIA

import mossvl
from mossvl import SamplingParams

TWELVE = SamplingParams(max_new_tokens=12, ignore_eos=True)
SHAPES = {"prompt": "What is there?", "images": [str(MEDIA / "shapes.png")]}
CLIP = {"prompt": "And here?", "videos": [str(MEDIA / "clip_10fps_6s.mp4")], "media_kwargs": {"max_frames": 5}}


def tokens(llm, queries):
    results = llm.generate(queries, TWELVE, progress=False)
    assert [one.error for one in results] == [None] * len(queries)
    return [one.token_ids for one in results]


@pytest.mark.parametrize(
    "parts", [{"data_parallel_size": 2}, {"data_parallel_size": 2, "tensor_parallel_size": 2}], ids=["dp", "dp and tp"]
)
def test_adapters_on_quantized_weights_answer_as_by_one_process(parts, tmp_path):
    pytest.importorskip("peft")
    from adapted_models import Adapted

    folder = random_checkpoint(tmp_path)
    adapters = Adapted(*mossvl.load(folder, "cpu", "float32"), tmp_path)
    adapters.add("own")
    queries = [{**query, **lora} for query in (SHAPES, CLIP) for lora in ({}, {"lora": "own"})] * 2
    options = {"device": "cpu", "dtype": "float32", "memory": 1 << 24, "quantization": "nf4", "lora": adapters.folders}
    with mossvl.MossVL(folder, **options) as one:
        expected = tokens(one, queries)
    assert expected[:2] != [expected[0]] * 2 or expected[2:4] != [expected[2]] * 2  # The adapter counts.
    with mossvl.MossVL(folder, **options, **parts) as several:
        assert tokens(several, queries) == expected
