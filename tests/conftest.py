"""Settings for every test: offline, one thread a worker, `gpu` tests only where a CUDA device is."""

import os
import signal
from pathlib import Path

# Before transformers, huggingface_hub or torch is imported; commands that tests start inherit them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # small operations; threads that wait for each other are slower

# A shell's job in the background ignores Ctrl-C, and so would what its tests start and stop.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
import torch
from hypothesis import settings

# A shared machine may stall any example; in CI the examples are the same in every run. MOSSVL_FUZZ asks for more.
settings.register_profile(
    "mossvl",
    deadline=None,
    derandomize="CI" in os.environ,
    max_examples=int(os.environ.get("MOSSVL_FUZZ", "100")),
)
settings.load_profile("mossvl")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """What a test draws is the same in every run and in any order."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of the reference implementation's inputs and outputs, and of its small checkpoint."""
    return Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def loaded(golden: Path):
    """The golden checkpoint in float32 on the CPU: (model, processor)."""
    import mossvl

    return mossvl.load(golden / "checkpoint", device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def model(loaded):
    return loaded[0]


@pytest.fixture(scope="session")
def processor(loaded):
    return loaded[1]


@pytest.fixture(scope="session")
def reference(golden: Path) -> dict[str, torch.Tensor]:
    """The reference implementation's tensors, `case.name`."""
    from safetensors.torch import load_file

    return load_file(golden / "cases.safetensors")


@pytest.fixture
def make(model, processor):
    """`MossVL` over the golden checkpoint, with these options; closed at the end of the test."""
    import mossvl

    made = []

    def new(**options):
        made.append(mossvl.MossVL(model, processor, **{"memory": 1 << 24, **options}))
        return made[-1]

    yield new
    for llm in made:
        llm.close()


@pytest.fixture
def llm(make):
    return make()


@pytest.fixture
def publish(tmp_path: Path):
    """Makes a checkpoint with quantized weights, of one of `published.FORMS`."""
    from published import Published

    return lambda form: Published(tmp_path / form, form)


@pytest.fixture(scope="session")
def server():
    """A server with mossvl-tiny, for all tests that need nothing special of it."""
    from running import serving

    with serving() as running:
        yield running


@pytest.fixture(scope="session")
def keyed():
    """A server that several keys may use, "one", "two" and "schlüssel", from all sites, for small bodies."""
    from running import serving

    keys = [flag for key in ("one", "two", "schlüssel") for flag in ("--api-key", key)]
    with serving(*keys, "--allow-origin", "*", "--max-body", "4000", "--max-responses", "2") as running:
        yield running


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
