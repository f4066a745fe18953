"""Configurations of adapters are read as PEFT reads them: what is added to each map is what PEFT's own modules add."""

import copy
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mossvl.adapters.files import AdapterFiles

peft = pytest.importorskip("peft")


def tree(names):
    """Modules of these names, with linear maps at the ends."""
    root = nn.Module()
    for number, name in enumerate(names):
        *path, last = name.split(".")
        module = root
        for part in path:
            if not hasattr(module, part):
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        module.add_module(last, nn.Linear(3 + number % 3, 4 + number % 2))
    return root


LAYER = ("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj")
NAMES = [
    *(f"model.language_model.layers.{layer}.{name}" for layer in (0, 1, 11) for name in LAYER),
    *(f"model.visual.blocks.{block}.{name}" for block in (0, 1) for name in ("attn.qkv", "attn.proj")),
    *("model.visual.merger.linear_fc1", "model.visual.merger.linear_fc2"),
]
MODEL = tree(NAMES)
ENDS = ["q_proj", "k_proj", "up_proj", "qkv", "proj", "linear_fc1", "self_attn.q_proj", "1.attn.qkv", NAMES[0]]
REGEXES = [
    r".*\.(q_proj|qkv)",
    r".*layers\.1+\..*_proj",
    r"model\.visual\..*(fc1|qkv)",
    r"(?i).*Q_PROJ",
    r".*_fc2|.*k_proj|.*attn\.q",
]
PATTERNS = [
    *ENDS,
    r".*\.mlp\..*",
    r"layers\.\d+\.self_attn\.q_proj",
    r"1\d*\.attn\.qkv",
    ".*",
    "^q_proj",
    "k_proj|proj",
    "up",
]

some_ends = st.lists(st.sampled_from(ENDS), min_size=1, max_size=4, unique=True)
numbers = st.sampled_from([1, 3, 8])
scales = st.sampled_from([1, 8, -3, 0.5])
chosen_layers = st.fixed_dictionaries(
    {"layers_to_transform": st.sampled_from([0, 1, [0, 11]])},
    optional={"layers_pattern": st.sampled_from(["layers", ["layers", "blocks"], "blocks"])},
)
configurations = st.builds(
    lambda named, layers, **others: others | named | (layers if isinstance(named["target_modules"], list) else {}),
    named=st.fixed_dictionaries({"target_modules": some_ends | st.sampled_from(REGEXES)})
    | st.just({"target_modules": "all-linear"}),
    layers=st.just({}) | chosen_layers,
    r=numbers,
    lora_alpha=scales,
    use_rslora=st.booleans(),
    exclude_modules=st.none() | some_ends | st.sampled_from(REGEXES),
    rank_pattern=st.dictionaries(st.sampled_from(PATTERNS), numbers, max_size=3),
    alpha_pattern=st.dictionaries(st.sampled_from(PATTERNS), scales, max_size=3),
)


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
@given(configurations)
def test_an_adapter_adds_what_pefts_modules_add(given):
    # PEFT saves patterns in alphabetical order, and the first that matches counts.
    given |= {name: dict(sorted(given[name].items())) for name in ("rank_pattern", "alpha_pattern")}
    try:
        adapted = peft.get_peft_model(copy.deepcopy(MODEL), peft.LoraConfig(**given, init_lora_weights=False))
    except ValueError:  # No map is left.
        return
    expected = {
        name.removeprefix("base_model.model."): module.get_delta_weight("default").detach()
        for name, module in adapted.named_modules()
        if isinstance(module, peft.tuners.lora.LoraLayer)
    }
    with tempfile.TemporaryDirectory() as folder:
        adapted.save_pretrained(folder)
        files = AdapterFiles.read(Path(folder))
        files.check(MODEL, "")
        found = {name: low.up @ low.down for name, low in files.low_ranks(MODEL, torch.float32)}
    torch.testing.assert_close(found, expected)
    if "layers_to_transform" not in given and given["target_modules"] != "all-linear":
        assert [name for name in NAMES if files.config.adapts(name)] == [name for name in NAMES if name in expected]
