"""One step of live records on some processes; the first one compares loss and gradients with a computation in float64.

python -m torch.distributed.run --nproc-per-node 2 weighted.py ACCUMULATE GAMMA
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import TrainerCallback, TrainingArguments

import mossvl
from mossvl.data.index import RecordIndex
from mossvl.options import MediaOptions
from mossvl.processing.stream import RESPONSE, SILENCE, StateTokens
from mossvl.ranks import first_process, leave_process_group, num_processes
from mossvl.training.batches import Packer
from mossvl.training.dataset import FileExamples
from mossvl.training.trainer import PackedTrainer, packed_arguments
from mossvl.training.weighting import StateWeighting

GOLDEN = Path(__file__).parents[1] / "golden"
S, R, F = SILENCE, RESPONSE, "<|video|>"
ANSWERS = [
    f"{S}{F}{S}{F}{S}{F}{R}A red square.{S}",
    f"{S}{F}{S}",
    f"{S}{F}{S}{F}{R}One{F}{R}, two.{S}{F}{S}{F}{S}",
    f"{S}{F}{S}{F}{S}{F}{S}",
]
"""Of each batch of one example; batches differ in their numbers of tokens, silences and responses."""


def records():
    for answer in ANSWERS:
        segments = [[time] for time in range(answer.count(F))]
        yield {
            "messages": [{"role": "user", "content": "Watch."}, {"role": "assistant", "content": answer}],
            "videos": [{"video_path": "clip_10fps_6s.mp4", "segments": segments}],
        }
    yield from [{"prompt": "Who?", "response": "It is I."}] * 2


def plain(model, batches, tokens, gamma):
    """Loss and gradients of all batches at once, in float64."""
    model = model.double().train()
    logprobs, labels = [], []
    for batch in batches:
        logits = model(**{**batch, "labels": None}).logits[0]
        own = batch["labels"][0, batch["logits_to_keep"] + 1]
        logprobs.append(-cross_entropy(logits, own, reduction="none"))
        labels.append(own)
    logprobs, labels = torch.cat(logprobs), torch.cat(labels)
    assert (logprobs > -0.5).any() and (logprobs < -2).any()
    weights = torch.ones_like(logprobs)
    silence, response = labels == tokens.silence, labels == tokens.response
    for mask in (silence, response):
        alpha = (silence.sum() + response.sum()) / (2 * mask.sum())
        weights[mask] = alpha.double() * (1 - logprobs[mask].detach().exp()) ** gamma
    loss = -(weights * logprobs).sum() / weights.sum()
    loss.backward()
    return loss.item(), {name: one.grad for name, one in model.named_parameters() if one.grad is not None}


class Seen(TrainerCallback):
    """Keeps gradients before the optimizer uses them."""

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        self.gradients = {
            name.removeprefix("module."): one.grad.clone()
            for name, one in model.named_parameters()
            if one.grad is not None
        }


def main(accumulate, gamma):
    torch.set_num_threads(1)
    model, processor = mossvl.load(GOLDEN / "checkpoint", device="cpu", dtype="float32")
    model.lm_head.weight.data *= 8  # so that the model is sure of some tokens
    folder = Path(tempfile.mkdtemp())
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, records())))
    examples = FileExamples(
        processor, RecordIndex.build(folder), GOLDEN / "media", MediaOptions(max_pixels=64 * 64), bad="stop"
    )
    tokens, packer = StateTokens.of(processor.tokenizer), Packer(processor.image_token_id, 2)
    each = len(examples) // accumulate // num_processes()
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=1,
        per_device_train_batch_size=each,
        gradient_accumulation_steps=accumulate,
        max_grad_norm=0,
        logging_steps=1,
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        label_names=["labels"],
        ddp_find_unused_parameters=False,
        **packed_arguments(False) | {"report_to": []},
    )
    seen = Seen()
    trainer = PackedTrainer(
        loss_of=StateWeighting(tokens, gamma),
        model=model,
        args=arguments,
        data_collator=packer,
        train_dataset=examples,
        callbacks=[seen],
    )
    before = {name: one.detach().clone() for name, one in model.state_dict().items()}
    trainer.train()
    loss = trainer.state.log_history[0]["loss"]
    if first_process():
        model.load_state_dict(before)
        model.zero_grad()
        batches = [packer([example]) for example in examples]
        for batch in batches:
            del batch["skipped"]
        expected, gradients = plain(model, batches, tokens, gamma)
        torch.testing.assert_close(torch.tensor(loss), torch.tensor(expected), rtol=1e-5, atol=1e-5, check_dtype=False)
        assert seen.gradients.keys() == gradients.keys()
        for name, one in seen.gradients.items():
            other, scale = gradients[name].float(), float(gradients[name].abs().max())
            torch.testing.assert_close(
                one, other, rtol=0, atol=1e-6 + 1e-4 * scale, msg=lambda text, name=name: f"{name}: {text}"
            )
        print(len(gradients), "gradients are equal")
    leave_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
