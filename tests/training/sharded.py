"""One of two processes with half of the weights, which compares its loss and gradients with those of the whole model.

python -m torch.distributed.run --nproc-per-node 2 sharded.py
"""

from pathlib import Path

import torch
import torch.distributed as dist
import yaml
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from mossvl.checkpoints.default import CHECKPOINT
from mossvl.model.modeling import MossVLLMHeadModel
from mossvl.options import MediaOptions
from mossvl.processing.pixels import PatchLayout
from mossvl.processing.processor import MossVLProcessor
from mossvl.ranks import leave_process_group
from mossvl.synthetic.world import Split
from mossvl.training.batches import Packer
from mossvl.training.examples import encode
from mossvl.training.synthetic import Phase, SyntheticExamples, SyntheticPacker

ROOT = Path(__file__).parents[2]


def pieces():
    config = yaml.safe_load((ROOT / "examples/fsdp2.yaml").read_text())["fsdp_config"]
    return set(config["fsdp_transformer_layer_cls_to_wrap"].split(","))


def pictures():
    processor = MossVLProcessor.from_pretrained(CHECKPOINT)
    examples = SyntheticExamples(processor, Split.TRAIN, 3, 4, [Phase(0, {"when": 1.0, "describe": 1.0})], run=4)
    packed = SyntheticPacker(processor.image_token_id, 2)([examples[number] for number in range(4)])
    return {**packed, "pixel_values": packed["pixel_values"].patches(PatchLayout())}


def texts():
    processor = MossVLProcessor.from_pretrained(CHECKPOINT)
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "I."}]
    packed = Packer(processor.image_token_id, 2)([encode(processor, turns, MediaOptions())])
    del packed["skipped"]
    return packed


def model():
    torch.manual_seed(0)
    return MossVLLMHeadModel(MossVLLMHeadModel.config_class.from_pretrained(CHECKPOINT)).train()


CASES = {
    "plain": ([pictures, pictures], False),
    "checkpointing": ([pictures, pictures], True),
    "texts": ([texts, texts], False),
    "mixed": ([pictures, texts], False),
}


def main():
    """Prints the name of each case that has passed."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for name, (batches, checkpointing) in CASES.items():
        compare(batches, checkpointing)
        if dist.get_rank() == 0:
            print(name)
    leave_process_group()


def compare(batches, checkpointing):
    mesh = init_device_mesh("cpu", (2,))
    whole, sharded = model(), model()
    expected = sum(whole(**batch()).loss for batch in batches) / 2
    expected.backward()
    if checkpointing:
        sharded.gradient_checkpointing_enable({"use_reentrant": False})
    names = pieces()
    chosen = [module for module in sharded.modules() if type(module).__name__ in names]
    assert {type(module).__name__ for module in chosen} == names
    for module in (*chosen, sharded):
        fully_shard(module, mesh=mesh, reshard_after_forward=True)  # of the whole, too, as accelerate does
    loss = sharded(**batches[dist.get_rank()]()).loss
    loss.backward()
    mean = loss.detach().clone()
    dist.all_reduce(mean)
    torch.testing.assert_close(mean / 2, expected.detach())
    for (name, one), other in zip(sharded.named_parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(one.grad.full_tensor(), other.grad, msg=lambda text, name=name: f"{name}: {text}")


if __name__ == "__main__":
    main()
