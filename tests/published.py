"""Small checkpoints of the published forms, put together from the golden one and the tensors of other packages."""

import json
import shutil
from pathlib import Path

from golden_cases import CHECKPOINT
from safetensors.torch import load_file, save_file

FOREIGN = Path(__file__).parent / "quantization" / "foreign"
FORMS = ("fp8", "int4", "nf4", "nf4-plain")


class Published:
    """A checkpoint with quantized weights.

    Attributes:
        folder: its folder.
        expected: weights as the other package dequantizes them, of some maps, by name.
    """

    def __init__(self, folder: Path, form: str) -> None:
        self.folder = folder
        shutil.copytree(CHECKPOINT, folder)
        foreign = load_file(FOREIGN / f"{form}.safetensors")
        names = [name for name in foreign if name.endswith(".dequantized")]
        self.expected = {name.removesuffix(".dequantized"): foreign.pop(name) for name in names}
        maps = {name.partition("_proj.")[0] + "_proj.weight" for name in foreign}
        plain = load_file(CHECKPOINT / "model.safetensors")
        self.write({**{name: one for name, one in plain.items() if name not in maps}, **foreign})
        self.configure(quantization_config=json.loads((FOREIGN / "configs.json").read_text())[form])

    def tensors(self):
        return load_file(self.folder / "model.safetensors")

    def write(self, tensors) -> None:
        save_file(tensors, self.folder / "model.safetensors")

    @property
    def config(self):
        return json.loads((self.folder / "config.json").read_text())

    def configure(self, **changes) -> None:
        (self.folder / "config.json").write_text(json.dumps({**self.config, **changes}))

    def edit(self, **changes) -> None:
        """Change the configuration of the quantization."""
        self.configure(quantization_config={**self.config["quantization_config"], **changes})
