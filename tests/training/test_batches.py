"""Examples that learn together learn what each would by itself."""

import pytest
import torch

from mossvl.options import MediaOptions
from mossvl.training.batches import Packer
from mossvl.training.examples import encode

QUESTIONS = [
    {"role": "user", "content": [{"type": "image", "image": None}, {"type": "text", "text": "What is it?"}]},
    {"role": "assistant", "content": "A picture."},
    {"role": "user", "content": "And now?"},
    {"role": "assistant", "content": "The same."},
]


@pytest.fixture(scope="module")
def examples(processor, golden):
    """One with a picture and two answers, one with text only."""
    picture = sorted((golden / "media").glob("*.png"))[0]
    asked = [{"type": "image", "image": str(picture)}, QUESTIONS[0]["content"][1]]
    conversations = [[{**QUESTIONS[0], "content": asked}, *QUESTIONS[1:]], QUESTIONS[2:]]
    return [encode(processor, messages, MediaOptions()) for messages in conversations]


@pytest.fixture(scope="module")
def packer(model):
    return Packer(model.config.image_token_id, model.config.vision_config.spatial_merge_size)


def loss_and_gradients(model, batch):
    assert batch.pop("skipped") == []  # for the training loop, which takes it out
    model.zero_grad()
    output = model(**batch, num_items_in_batch=1)
    output.loss.backward()
    gradients = {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
    }
    model.zero_grad(set_to_none=True)
    return output, gradients


def test_a_packed_batch_gives_the_sum_of_its_examples(model, packer, examples):
    together, gradients = loss_and_gradients(model, packer(examples))
    alone = [loss_and_gradients(model, packer([example])) for example in examples]
    torch.testing.assert_close(together.loss, sum(output.loss for output, _ in alone), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(together.logits, torch.cat([output.logits for output, _ in alone], dim=1))
    for name, gradient in gradients.items():
        expected = sum(own[name] for _, own in alone if name in own)
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)


def test_a_packed_example_is_the_processors_batch(model, packer, processor, examples):
    batch = packer(examples[:1])
    plain = model(
        input_ids=examples[0].input_ids[None],
        labels=examples[0].labels[None],
        pixel_values=batch["pixel_values"],
        grid_thw=torch.tensor(examples[0].grids),
    )
    del batch["skipped"]
    packed = model(**batch)
    torch.testing.assert_close(packed.loss, plain.loss)
    torch.testing.assert_close(packed.logits, plain.logits[:, batch["logits_to_keep"]])


def test_training_gives_the_loss_and_the_gradients_of_a_forward_pass_that_gives_logits(model, packer, examples):
    plain, expected = loss_and_gradients(model, packer(examples))
    model.train()
    try:
        learned, gradients = loss_and_gradients(model, packer(examples))
    finally:
        model.eval()
    assert learned.logits is None and plain.logits is not None
    torch.testing.assert_close(learned.loss, plain.loss)
    torch.testing.assert_close(gradients, expected)


def test_columns_are_those_whose_next_token_is_learned(packer, processor, examples):
    batch = packer(examples)
    learned = batch["labels"][0, batch["logits_to_keep"] + 1]
    assert processor.tokenizer.decode(learned) == "A picture.<|im_end|>The same.<|im_end|>The same.<|im_end|>"


def test_texts_alone_run_every_part_and_change_only_what_they_teach(model, packer, examples):
    batch = packer(examples[1:])
    assert batch["packed"].grids and len(batch["logits_to_keep"]) == (examples[1].labels != -100).sum()
    output, gradients = loss_and_gradients(model, batch)
    text = examples[1]
    plain = model(input_ids=text.input_ids[None], labels=text.labels[None], num_items_in_batch=1)
    torch.testing.assert_close(output.loss, plain.loss)
    assert set(gradients) == {name for name, _ in model.named_parameters()}
    seeing = [name for name in gradients if "visual" in name or "cross_attn" in name]
    assert seeing and not any(gradients[name].any() for name in seeing)
    assert any(gradient.any() for gradient in gradients.values())
