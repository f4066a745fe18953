"""Adapters of the golden checkpoint, as PEFT writes them, and PEFT's own models with them."""

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_cases import CHECKPOINT, MEDIA
from PIL import Image

from mossvl import SamplingParams

peft = pytest.importorskip("peft")

TEXT = r"model\.language_model\.layers\.\d+\.(self_attn|cross_attn|mlp)\.\w+_proj"
"""All maps of the decoder's layers."""
TOKENS = 10
PARAMS = SamplingParams(max_new_tokens=TOKENS, ignore_eos=True, logprobs=0)
SHAPES = {"prompt": "What is there?", "images": [str(MEDIA / "shapes.png")]}


def adapted(model, seed=0, std=0.3, **lora):
    """PEFT's model with an adapter that changes answers; the model that is given stays as it is."""
    lora = {"r": 4, "lora_alpha": 8, "target_modules": TEXT, **lora}
    wrapped = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(**lora)).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name or "lora_embedding_B" in name:
            parameter.data.normal_(std=std, generator=generator)
    wrapped.peft_config["default"].base_model_name_or_path = str(CHECKPOINT)
    return wrapped


@dataclass
class Adapted:
    """Adapters on disk, and PEFT's models with them, by name."""

    model: Any
    processor: Any
    root: Path
    models: dict[str, Any] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=dict)

    def add(self, name, **lora):
        self.models[name] = adapted(self.model, seed=len(self.models), **lora)
        self.folders[name] = str(self.root / name)
        self.models[name].save_pretrained(self.folders[name])
        return self.folders[name]

    def expected(self, name, query, text):
        """Greedy tokens, and their log-probabilities, of PEFT's model (of the base for None) after a prompt."""
        model = self.model if name is None else self.models[name].base_model.model
        images = [Image.open(one) for one in query.get("images", ())] or None
        inputs = self.processor(text=text, images=images, return_tensors="pt")
        found = model.generate(
            **inputs, max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False, output_logits=True,
            return_dict_in_generate=True,
        )  # fmt: skip
        tokens = found.sequences[0, inputs["input_ids"].shape[1] :]
        scores = torch.stack(found.logits)[:, 0].log_softmax(-1)
        return tokens.tolist(), scores.gather(1, tokens[:, None])[:, 0]


def logprobs_of(result):
    """The log-probabilities of an answer's own tokens."""
    return torch.tensor([one.logprob for one in result.logprobs])
