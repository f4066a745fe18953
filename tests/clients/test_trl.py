"""TRL's trainers take the model and the processor as they are, and compute what `mossvl train` computes."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, TrainingArguments

pytest.importorskip("trl", reason="no trl; .ci/clients installs it")
from datasets import Dataset
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from mossvl.checkpoints.default import CHECKPOINT
from mossvl.errors import PromptError
from mossvl.model.loss import token_logprobs
from mossvl.options import MediaOptions
from mossvl.training.batches import Packer, pack
from mossvl.training.examples import Example, encode
from mossvl.training.trainer import PackedTrainer, packed_arguments

RED, BLUE, GREEN = (
    Image.new("RGB", size, colour) for size, colour in (((64, 32), "red"), ((32, 48), "blue"), ((96, 64), "green"))
)
IMAGES = [[RED], [BLUE, GREEN], [], [GREEN]]
QUESTIONS = ["What is it?", "Which colours are these?", "Hi there", "And this?"]
ANSWERS = ["A red one.", "Blue and green.", "Hello.", "Green, of course."]
WORSE = ["No.", "I do not know them.", "Bye.", "This?"]
CLIP = str(Path(__file__).parents[2] / "examples/clip.mp4")


def said(role, texts):
    return [[{"role": role, "content": text}] for text in texts]


ASKED, ANSWERED = said("user", QUESTIONS), said("assistant", ANSWERS)


@pytest.fixture
def model():
    return AutoModelForImageTextToText.from_pretrained(CHECKPOINT, dtype=torch.float32)


@pytest.fixture(scope="module")
def processor():
    return AutoProcessor.from_pretrained(CHECKPOINT)


def settings(output):
    """Two steps in float32 on a CPU, each of two samples."""
    return {
        "output_dir": str(output),
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
    }


def logged(trainer, name):
    trainer.train()
    return [line[name] for line in trainer.state.log_history if name in line]


def examples(processor, answers=ANSWERS, start=None):
    """The samples as examples of `mossvl train`, but the line's end after the answer has loss, too, as TRL has it.

    Args:
        start: the first token with loss; that of the answer if None.
    """
    found = []
    for images, question, answer in zip(IMAGES, QUESTIONS, answers, strict=True):
        asked = [*({"type": "image", "image": image} for image in images), {"type": "text", "text": question}]
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        one = encode(processor, turns, MediaOptions())
        first = int((one.labels != -100).nonzero()[0]) if start is None else start
        labels = torch.where(torch.arange(len(one.labels)) < first, -100, one.input_ids)
        assert torch.equal(labels[:-1], one.labels[:-1]) or start is not None
        found.append(replace(one, labels=labels))
    return found


def own_losses(model, processor, own, output):
    """The losses of the same steps by the packed trainer."""
    packer = Packer(processor.image_token_id, processor.image_processor.merge_size)
    arguments = TrainingArguments(**{**packed_arguments(gpu=False), **settings(output)})
    return logged(PackedTrainer(model=model, args=arguments, train_dataset=own, data_collator=packer), "loss")


def logprobs(model, example, merge_size, image_token_id):
    """Log-probabilities of the example's tokens with loss, of a packed batch of one."""
    batch = {**pack([example], image_token_id, merge_size), "pixel_values": example.pixels}
    following = example.labels[batch["logits_to_keep"] + 1]
    with torch.no_grad():
        batch.pop("labels")
        logits = model(**{name: value for name, value in batch.items() if len(example.grids) or name != "pixel_values"})
    return token_logprobs(logits.logits[0], following)


# --- SFTTrainer ------------------------------------------------------------------------------------------------------


def test_prompts_and_completions_have_the_losses_of_mossvl_train(model, processor, tmp_path):
    own = own_losses(deepcopy(model), processor, examples(processor), tmp_path / "own")
    data = Dataset.from_dict({"images": IMAGES, "prompt": ASKED, "completion": ANSWERED})
    arguments = SFTConfig(**settings(tmp_path / "trl"))
    found = logged(SFTTrainer(model, arguments, train_dataset=data, processing_class=processor), "loss")
    assert len(found) == 2
    assert found == pytest.approx(own, rel=1e-5)


def test_conversations_by_its_own_collator_have_our_losses(model, processor, tmp_path):
    own = own_losses(deepcopy(model), processor, examples(processor, start=1), tmp_path / "own")
    messages = [asked + answered for asked, answered in zip(ASKED, ANSWERED, strict=True)]
    data = Dataset.from_dict({"images": IMAGES, "messages": messages})
    arguments = SFTConfig(**settings(tmp_path / "trl"))
    found = logged(SFTTrainer(model, arguments, train_dataset=data, processing_class=processor), "loss")
    assert len(found) == 2
    assert found == pytest.approx(own, rel=1e-5)


def test_videos_in_conversations_train(model, processor, tmp_path):
    video = [{"type": "video", "video": CLIP}, {"type": "text", "text": "When?"}]
    messages = [{"role": "user", "content": video}, {"role": "assistant", "content": "At two seconds."}]
    arguments = SFTConfig(**settings(tmp_path))
    own = encode(processor, messages, MediaOptions())
    own = replace(own, labels=torch.cat((own.labels[:1], own.input_ids[1:])))
    expected = -logprobs(model, own, processor.image_processor.merge_size, processor.image_token_id).mean().item()
    messages[1]["content"] = [{"type": "text", "text": "At two seconds."}]
    data = Dataset.from_list([{"images": [], "messages": messages}] * 2)
    found = logged(SFTTrainer(model, arguments, train_dataset=data, processing_class=processor), "loss")
    assert found[0] == pytest.approx(expected, rel=1e-5)


# --- DPOTrainer, GRPOTrainer -----------------------------------------------------------------------------------------


def test_preferences_have_our_log_probabilities(model, processor, tmp_path):
    token, merge = processor.image_token_id, processor.image_processor.merge_size
    sums = {
        name: [logprobs(model, one, merge, token).sum().item() for one in examples(processor, answers)]
        for name, answers in (("chosen", ANSWERS), ("rejected", WORSE))
    }
    columns = {"images": IMAGES, "prompt": ASKED, "chosen": ANSWERED, "rejected": said("assistant", WORSE)}
    arguments = DPOConfig(**{**settings(tmp_path), "per_device_train_batch_size": 4})
    trainer = DPOTrainer(model, args=arguments, train_dataset=Dataset.from_dict(columns), processing_class=processor)
    losses = logged(trainer, "loss")
    assert losses[0] == pytest.approx(0.693147, rel=1e-5) != losses[1]
    first = trainer.state.log_history[0]
    for name, expected in sums.items():
        assert first[f"logps/{name}"] == pytest.approx(sum(expected) / 4, rel=1e-5)


def test_rollouts_have_our_log_probabilities(model, processor, tmp_path, monkeypatch):
    """The reference model and the second pass over rollouts pass all that the processor lists to the model."""
    compared = []
    score = GRPOTrainer._get_per_token_logps_and_entropies

    def compare(trainer, model, input_ids, attention_mask, logits_to_keep, *args, **given):
        found = score(trainer, model, input_ids, attention_mask, logits_to_keep, *args, **given)
        per_image = given["image_grid_thw"].prod(1)
        pixels = iter(given["pixel_values"].split(per_image.tolist()))
        grids = iter(given["image_grid_thw"].tolist())
        for row, count in enumerate(given["num_images"]):
            own = [next(pixels) for _ in range(count)]
            real = attention_mask[row].bool()
            said = int(attention_mask[row, -logits_to_keep:].sum())
            ids = input_ids[row, real]
            labels = torch.where(torch.arange(len(ids)) < len(ids) - said, -100, ids)
            example = Example(ids, labels, [tuple(next(grids)) for _ in own], torch.cat(own or [torch.empty(0, 768)]))
            expected = logprobs(model, example, processor.image_processor.merge_size, processor.image_token_id)
            torch.testing.assert_close(found[0][row, :said].detach(), expected, atol=1e-4, rtol=0)
            compared.append(said)
        return found

    monkeypatch.setattr(GRPOTrainer, "_get_per_token_logps_and_entropies", compare)
    arguments = GRPOConfig(
        **{
            **settings(tmp_path),
            "num_generations": 2,
            "max_completion_length": 8,
            "beta": 0.1,
            "num_iterations": 2,
            "gradient_accumulation_steps": 2,
        }
    )
    prompts = []

    def reward(completion_ids, **given):
        prompts.extend(given["prompts"])
        return [float(len(ids)) for ids in completion_ids]

    data = Dataset.from_dict({"images": IMAGES[1:3], "prompt": ASKED[1:3]})  # the second has none
    trainer = GRPOTrainer(model, reward, args=arguments, train_dataset=data, processing_class=processor)
    assert len(logged(trainer, "loss")) == 2
    assert len(compared) >= 6 and any(compared)
    assert prompts


def test_videos_that_its_trainers_drop_are_refused(model, processor, tmp_path):
    parts = [{"type": "image"}, {"type": "video", "video": CLIP}, {"type": "text", "text": "When?"}]
    data = Dataset.from_list([{"images": [RED], "prompt": [{"role": "user", "content": parts}]}] * 2)
    arguments = GRPOConfig(**settings(tmp_path), num_generations=2, max_completion_length=2)
    trainer = GRPOTrainer(model, lambda **_: [0.0, 0.0], args=arguments, train_dataset=data, processing_class=processor)
    with pytest.raises(PromptError, match="most of TRL's, has dropped the videos"):
        trainer.train()
    del data, trainer, parts[0]
    data = Dataset.from_list([{"prompt": [{"role": "user", "content": parts}]}] * 2)
    trainer = GRPOTrainer(model, lambda **_: [0.0, 1.0], args=arguments, train_dataset=data, processing_class=processor)
    with pytest.raises(ValueError, match="trainers for images alone drop videos"):
        trainer.train()
