"""A tower that does not learn computes the same without gradients; its merger learns as before."""

import copy

import torch

from mossvl.model.vision_ops import PLAIN

GRIDS = [(1, 4, 6), (2, 2, 4), (1, 4, 4)]


def output_and_gradients(tower, chunk=None):
    patches = sum(frames * rows * columns for frames, rows, columns in GRIDS)
    width = tower.patch_embed.proj.weight[0].numel()
    pixels = torch.randint(256, (patches, width), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    tower.zero_grad()
    merged = tower(pixels, GRIDS, chunk)
    merged.square().sum().backward()
    return merged.detach(), {name: one.grad for name, one in tower.named_parameters() if one.grad is not None}


def test_only_the_merger_of_a_frozen_tower_learns(model):
    tower = copy.deepcopy(model.model.visual).double().requires_grad_(True)
    merged, gradients = output_and_gradients(tower)
    tower.frozen_ops = PLAIN
    for chunk in (None, 1):
        frozen_merged, frozen_gradients = output_and_gradients(tower, chunk)
        torch.testing.assert_close(frozen_merged, merged)
        assert frozen_gradients.keys() == {name for name in gradients if name.startswith("merger.")}
        torch.testing.assert_close(frozen_gradients, {name: gradients[name] for name in frozen_gradients})


def test_autocast_does_not_lower_the_precision_of_a_frozen_tower(model):
    tower = copy.deepcopy(model.model.visual)
    levels = []
    tower.merger.register_forward_pre_hook(lambda merger, given: levels.append(given[0][0]))
    tower.frozen_ops = PLAIN
    output_and_gradients(tower)
    with torch.autocast("cpu", torch.bfloat16):
        output_and_gradients(tower)
    assert len(levels) == 2 and torch.equal(*levels)
