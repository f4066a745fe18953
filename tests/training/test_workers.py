"""Processes that make examples end without a word when the run does."""

import sys

import pytest
import torch
from torch.utils.data import DataLoader

from mossvl.training.workers import quiet


class Told(torch.utils.data.Dataset):
    """What a worker's `sys.excepthook` prints of an error, as numbers of characters."""

    errors = (EOFError("x"), ConnectionResetError("x"), ValueError("x"))

    def __len__(self):
        return len(self.errors)

    def __getitem__(self, number):
        printed = []
        sys.stderr = type("Printed", (), {"write": lambda _, text: printed.append(text), "flush": lambda _: None})()
        sys.excepthook(type(self.errors[number]), self.errors[number], None)
        return len("".join(printed))


@pytest.mark.parametrize("own", [None, lambda worker: None])
def test_a_worker_is_silent_about_connections_that_end_and_tells_other_errors(own):
    loader = quiet(DataLoader(Told(), batch_size=1, num_workers=1, worker_init_fn=own))
    lengths = [int(length) for length in loader]
    assert lengths[:2] == [0, 0] and lengths[2] > 0
