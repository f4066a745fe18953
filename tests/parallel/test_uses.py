"""Sessions, adapters, several engines and ends of engines of a model that is cut; and what only a whole model does."""

import copy
import pickle

import pytest
import torch
from cut_models import engine
from golden_cases import CHECKPOINT, MEDIA
from live_streams import Watched, check_stream, picture
from typer.testing import CliRunner

import mossvl
from mossvl import SamplingParams
from mossvl.cli.main import commands
from mossvl.errors import CheckpointError, GenerationCancelled, OptionError
from mossvl.processing.stream import frame_text, opening_text

TWELVE = SamplingParams(max_new_tokens=12, ignore_eos=True)
SHAPES = {"prompt": "What is there?", "images": [str(MEDIA / "shapes.png")]}
CLIP = {"prompt": "And here?", "videos": [str(MEDIA / "clip_10fps_6s.mp4")], "media_kwargs": {"max_frames": 5}}


def tokens(llm, *queries):
    results = llm.generate(list(queries), TWELVE, progress=False)
    assert [one.error for one in results] == [None] * len(queries)
    return [one.token_ids for one in results]


def test_a_live_session_goes_as_one_pass_of_the_whole_model_over_its_stream(halves, model, processor):
    with engine(halves) as llm:
        options = {"tokens_per_second": None, "window_seconds": None, "tokens_per_slot": 3}
        watched = Watched(llm.live("", system_prompt="Watch.", **options), opening_text("Watch.", ""))
        watched.decide(1)
        for number in range(4):
            watched.pictures.append(picture(number))
            watched.session.push(watched.pictures[-1], float(number))
            watched.given.append(frame_text(float(number)))
            watched.decide(len(watched.given))
        slots = check_stream(watched, model, processor)
        assert sum(map(len, slots)) >= 5
        watched.session.close()


def test_adapters_beside_each_other_answer_as_by_one_process(halves, make, model, processor, tmp_path):
    pytest.importorskip("peft")
    from adapted_models import TEXT, Adapted

    adapters = Adapted(model, processor, tmp_path)
    adapters.add("own")
    adapters.add("merger", target_modules=rf"{TEXT}|model\.visual\.merger\.linear_fc\d")
    queries = [{**query, **lora} for query in (SHAPES, CLIP) for lora in ({}, {"lora": "own"}, {"lora": "merger"})]
    expected = tokens(make(lora=adapters.folders), *queries)
    with engine(halves, lora=adapters.folders) as llm:
        assert tokens(llm, *queries) == expected
    assert len({tuple(one) for one in expected}) == 6


def test_an_adapter_that_does_not_fit_ends_no_group(halves, model, processor, tmp_path):
    pytest.importorskip("peft")
    from adapted_models import Adapted

    folder = Adapted(model, processor, tmp_path).add("own")
    path = tmp_path / "own" / "adapter_config.json"
    path.write_text(path.read_text().replace('"r": 4', '"r": 5'))
    with pytest.raises(CheckpointError, match=r"adapter 'own': .*expected \[5, "):
        engine(halves, lora={"own": folder})
    with engine(halves) as llm:
        assert tokens(llm, SHAPES)


def test_caches_are_cleared_and_engines_closed_and_started_again(halves, make):
    expected = tokens(make(), SHAPES, CLIP)
    with engine(halves) as llm:
        assert tokens(llm, SHAPES, CLIP) == expected
        llm.engine.clear_caches()
        assert tokens(llm, SHAPES, CLIP) == expected
        handle = llm.submit(SHAPES, SamplingParams(max_new_tokens=100_000, ignore_eos=True))
        llm.close()
        assert isinstance(handle.wait(1).error, GenerationCancelled)
        assert tokens(llm, SHAPES, CLIP) == expected


def test_two_engines_of_a_model_answer_at_once(halves, make):
    (expected,) = tokens(make(), CLIP)
    with engine(halves) as one, engine(halves, page_size=4) as other:
        handles = [llm.submit(CLIP, TWELVE) for _ in range(3) for llm in (one, other)]
        assert [handle.result(60).token_ids for handle in handles] == [expected] * 6


def test_quantized_weights_answer_as_by_one_process(plain):
    whole = mossvl.load(plain, "cpu", "float32", quantization="nf4")
    expected = tokens(engine(whole), SHAPES, CLIP)
    cut = mossvl.load(plain, "cpu", "float32", quantization="nf4", tensor_parallel_size=2)
    with engine(cut) as llm:
        assert tokens(llm, SHAPES, CLIP) == expected
    cut[0].ranks.close()


@pytest.mark.parametrize(
    ("use", "told"),
    [
        (lambda model, _: model(input_ids=torch.tensor([[1, 2]])), "forward needs the whole model"),
        (lambda model, _: model.generate(torch.tensor([[1, 2]]), max_new_tokens=2), "cut among 2 processes"),
        (lambda model, folder: model.save_pretrained(folder), "save_pretrained needs the whole model"),
        (lambda model, _: copy.deepcopy(model), "cannot be copied"),
        (lambda model, _: pickle.dumps(model), "cannot be pickled"),
    ],
    ids=["forward", "generate", "save", "copy", "pickle"],
)
def test_what_needs_all_weights_is_refused(use, told, halves, tmp_path):
    with pytest.raises(OptionError, match=told):
        use(halves[0], tmp_path)


def test_a_size_that_does_not_divide_is_one_line_and_exit_code_2():
    arguments = ["ask", "-c", str(CHECKPOINT), "--device", "cpu", "-tp", "3", "Why?"]
    result = CliRunner().invoke(commands, arguments)
    assert result.exit_code == 2 and "Traceback" not in result.stderr
    assert "--tensor-parallel-size 3 does not divide the model's 4 heads; possible are 1, 2" in result.stderr
