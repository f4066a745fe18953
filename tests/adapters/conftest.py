"""Adapters of the golden checkpoint."""

import pytest

pytest.importorskip("peft")
from adapted_models import Adapted


@pytest.fixture
def adapters(model, processor, tmp_path):
    return Adapted(model, processor, tmp_path)
