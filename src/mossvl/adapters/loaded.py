"""The adapters (LoRA) that a model has at run time, beside each other: each row of a batch may have another one."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from mossvl.adapters.config import AdapterConfig
from mossvl.adapters.files import PLACES, AdapterFiles, LowRank
from mossvl.errors import CheckpointError, OptionError
from mossvl.model.modeling import MossVLLMHeadModel, MossVLModel
from mossvl.options.checks import check_names, text
from mossvl.quantization.formats import Whole
from mossvl.scheduling.pages import NO_ADAPTER


class Adapters:
    """The adapters of a model, which itself stays as it is.

    Attributes:
        names: of the adapters, by index.
        of: for each adapted linear map of the decoder, what each adapter adds to it.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        self.names = tuple(names)
        self.of: dict[nn.Module, list[LowRank | None]] = {}
        self._vision: list[dict[str, LowRank]] = [{} for _ in names]

    @classmethod
    def load(cls, model: MossVLLMHeadModel, folders: Mapping[str, str | Path]) -> "Adapters":
        """Read adapters.

        Args:
            folders: by name.

        Raises:
            CheckpointError: a file is missing or broken, or an adapter is of another checkpoint, or of another kind.
        """
        loaded = cls(list(folders))
        dtype = model.model.language_model.norm.weight.dtype
        whole = Whole.of if model.ranks is None else model.ranks.share.whole
        for index, (name, folder) in enumerate(folders.items()):
            try:
                files = AdapterFiles.read(Path(folder))
                files.check(model, str(model.name_or_path or ""), whole)
                for map_name, low in files.low_ranks(model, dtype, whole):
                    loaded._put(model, index, map_name, low)
            except CheckpointError as error:
                raise CheckpointError(f"adapter {name!r}: {error}") from error
        return loaded

    def __len__(self) -> int:
        return len(self.names)

    def index(self, name: str | None) -> int:
        """The index of the adapter of a name; None has `NO_ADAPTER`.

        Raises:
            OptionError: there is none of this name.
        """
        if name is None:
            return NO_ADAPTER
        check_names([text("lora", name)], self.names, "adapter (lora)")
        return self.names.index(name)

    def sees(self, index: int) -> bool:
        """Whether an adapter changes the vision tower, so that frames have vision tokens of their own with it."""
        return index != NO_ADAPTER and bool(self._vision[index])

    def vision(self, model: MossVLModel, index: int) -> MossVLModel:
        """The model whose tower has an adapter: the model itself, or one that shares all of its weights."""
        return with_adapters(model, self._vision[index]) if self.sees(index) else model

    def _put(self, model: nn.Module, index: int, name: str, low: LowRank) -> None:
        if name.startswith(PLACES[0]):
            self.of.setdefault(model.get_submodule(name), [None] * len(self))[index] = low
        else:
            self._vision[index][name.removeprefix("model.")] = low


def beyond_memory(folders: Mapping[str, str | Path]) -> OptionError:
    """The error of adapters for which the device has no memory."""
    ranks = {name: AdapterConfig.read(Path(folder)).highest_rank for name, folder in folders.items()}
    name = max(ranks, key=lambda one: ranks[one])
    return OptionError(
        f"{{lora}}: the memory of the device does not suffice for {len(ranks)} adapters beside the weights. On a GPU, "
        f"all of them take the memory of the highest rank, which is {ranks[name]}, of {name!r:.100}: leave that one "
        "out, or merge it into a checkpoint (mossvl merge); or give fewer adapters",
        option="lora",
    )


class AdaptedLinear(nn.Module):
    """A linear map with an adapter, for all rows."""

    def __init__(self, base: nn.Module, low: LowRank) -> None:
        super().__init__()
        self.base, self.low = base, low

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + F.linear(F.linear(x, self.low.down), self.low.up)


def with_adapters(model: MossVLModel, lows: Mapping[str, LowRank]) -> MossVLModel:
    """A model of the same modules, but for the maps of these names, which have adapters."""

    def copied(module: nn.Module, prefix: str) -> nn.Module:
        if prefix[:-1] in lows:
            return AdaptedLinear(module, lows[prefix[:-1]])
        if not any(name.startswith(prefix) for name in lows):
            return module
        other = copy.copy(module)
        other._modules = {name: one and copied(one, f"{prefix}{name}.") for name, one in module._modules.items()}
        return other

    made = copied(model, "")
    assert isinstance(made, MossVLModel)
    return made
