"""What the processor returns, by name: prompts with images alone list what any model of transformers takes."""

import pickle
from pathlib import Path

import pytest
import torch

import mossvl
from mossvl.errors import OptionError, PromptError
from mossvl.processing.model_inputs import FOLLOWING

EXAMPLES = Path(__file__).parents[2] / "examples"
PICTURE, CLIP = str(EXAMPLES / "shapes.png"), str(EXAMPLES / "clip.mp4")
LISTED = ["input_ids", "attention_mask", "pixel_values", "image_grid_thw"]
TEXTS = ["<|image|>What?", "Why? And what else?", "<|image|><|image|>Which?"]


@pytest.fixture(scope="module")
def tiny():
    return mossvl.load(device="cpu")[1]


@pytest.fixture
def images(tiny):
    return tiny(TEXTS, [PICTURE] * 3)


def test_images_alone_list_the_names_of_any_model(images, tiny):
    assert sorted(images) == sorted(LISTED) and len(images) == 4
    assert sorted(dict(images.items())) == sorted(LISTED)
    assert sorted({**images}) == sorted(LISTED)
    assert sorted(tiny(TEXTS[1])) == ["attention_mask", "input_ids"]
    assert sorted(tiny.image_processor([PICTURE])) == ["image_grid_thw", "pixel_values"]


def test_what_follows_can_be_read_and_removed(images):
    assert torch.equal(images["grid_thw"], images["image_grid_thw"])
    assert images["media_nums_per_sample"] == [1, 0, 2] == images.media_nums_per_sample
    assert images["cross_attention_mask"].shape == (3, 1, images["input_ids"].shape[1], 2)
    assert "cross_attention_mask" in images and images.get("grid_thw") is not None
    del images["cross_attention_mask"]
    assert images.pop("media_nums_per_sample") == [1, 0, 2]
    assert "cross_attention_mask" not in images and len(images) == 4


def test_all_names_move_and_are_pickled(images):
    moved = pickle.loads(pickle.dumps(images)).to(torch.float16)
    assert moved["pixel_values"].dtype == torch.float16
    assert moved["media_nums_per_sample"] == [1, 0, 2] and sorted(moved) == sorted(LISTED)


@pytest.mark.parametrize(
    ("given", "videos"),
    [
        ((["<|image|>What?", "<|video|>When?"], [PICTURE], [CLIP]), {}),
        ((["<|image|>What?", "Why?"], [PICTURE]), {"blank_image_for_text": True}),
    ],
)
def test_videos_and_blank_images_need_all_names(given, videos, tiny):
    inputs = tiny(*given, **videos)
    assert set(inputs) == {"input_ids", "attention_mask", "pixel_values", *FOLLOWING}


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_the_listed_names_are_all_that_the_model_needs(side, model, processor):
    inputs = processor(TEXTS, [PICTURE] * 3, padding_side=side)
    logits = model(**inputs).logits
    for row, (text, count) in enumerate(zip(TEXTS, (1, 0, 2), strict=True)):
        own = model(**processor(text, [PICTURE] * count)).logits[0]
        torch.testing.assert_close(logits[row, inputs["attention_mask"][row].bool()], own, atol=1e-5, rtol=1e-5)


# --- as trainers ask -------------------------------------------------------------------------------------------------


def asking(text, *pictures):
    return [{"role": "user", "content": [*({"type": "image", "image": one} for one in pictures), *[
        {"type": "text", "text": text}]]}]  # fmt: skip


def test_a_batch_of_conversations_is_lists_unless_padding_or_tensors_are_asked_for(tiny):
    batch = [asking("What?", PICTURE), asking("Why, and what else?")]
    plain = tiny.apply_chat_template(batch, tokenize=True, return_dict=True)
    alone = [tiny.apply_chat_template(one, tokenize=True)[0].tolist() for one in batch]
    assert plain["input_ids"] == alone
    assert sorted(plain) == sorted(LISTED)
    for asked in ({"return_tensors": "pt"}, {"padding_side": "left"}, {"processor_kwargs": {"padding": True}}):
        padded = tiny.apply_chat_template(batch, tokenize=True, return_dict=True, **asked)
        assert padded["input_ids"].shape == (2, max(map(len, alone)))


@pytest.mark.parametrize("side", ["left", "right"])
def test_prompts_are_truncated(side, tiny, monkeypatch):
    monkeypatch.setattr(tiny.tokenizer, "truncation_side", side)
    whole = tiny("How many stars are there in the sky?")["input_ids"][0]
    cut = tiny(["How many stars are there in the sky?", "Why?"], truncation=True, max_length=4)["input_ids"]
    assert cut[0].tolist() == (whole[-4:] if side == "left" else whole[:4]).tolist()
    assert tiny("Why?", truncation=True, max_length=4096)["input_ids"].tolist() == tiny("Why?")["input_ids"].tolist()
    assert len(tiny("How many stars?", truncation=False, max_length=1)["input_ids"][0]) > 1


def test_labels_are_truncated_with_the_prompt(tiny):
    text = "How many stars are there in the sky?"
    given = {"labels_spans": [[4, len(text)]]}
    assert torch.equal(
        tiny(text, truncation=True, max_length=5, **given)["labels"], tiny(text, **given)["labels"][:, :5]
    )


def test_truncation_never_loses_an_image(tiny):
    with pytest.raises(PromptError, match="more than max_length=3, and truncation would lose images"):
        tiny("How many stars are there? <|image|>", PICTURE, truncation=True, max_length=3)
    for given in ({"truncation": True}, {"truncation": "only_first", "max_length": 5}):
        with pytest.raises(OptionError, match=r"truncation=.* is not supported"):
            tiny("Why?", **given)
    with pytest.raises(OptionError, match="max_length"):
        tiny("Why?", truncation=True, max_length=0)


def test_videos_that_a_trainer_has_dropped_are_told(tiny):
    with pytest.raises(PromptError, match=r"passes images alone, such as most of TRL's, has dropped the videos"):
        tiny("<|image|><|video|>When?", images=[PICTURE])
