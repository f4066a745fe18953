"""The configuration of an adapter (`adapter_config.json`, as PEFT writes it): what its tensors compute."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mossvl.checkpoints.headers import read_json, usable
from mossvl.errors import CheckpointError, shown
from mossvl.options.checks import number, switch, text, whole

CONFIG = "adapter_config.json"
READ = frozenset(
    {
        *("peft_type", "base_model_name_or_path", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern"),
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "init_lora_weights"),
    }
)
"""Keys that this module reads."""
NEUTRAL = frozenset(
    {
        *("auto_mapping", "peft_version", "revision", "task_type", "inference_mode", "lora_dropout", "runtime_config"),
        *("loftq_config", "eva_config", "megatron_config", "megatron_core", "qalora_group_size", "ensure_weight_tying"),
    }
)
"""Keys that change nothing of what trained adapters compute."""
PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Values of `init_lora_weights` that leave the weights of the base as they are."""


@dataclass(frozen=True)
class AdapterConfig:
    """What an adapter adds to linear maps: scale · up(down(x)).

    Attributes:
        base: the checkpoint that it was trained on, a folder or a repository's name; "" if unknown.
        rank, alpha: of all maps that `ranks` and `alphas` have no pattern for.
        square_root: the scale is alpha / √rank (rsLoRA), not alpha / rank.
        ranks, alphas: by patterns of maps' names.
        targets, excluded: names of maps, their ends or a pattern.
        chosen: the keys that choose some of the layers.
    """

    base: str
    rank: int
    alpha: float
    square_root: bool
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    targets: str | tuple[str, ...]
    excluded: str | tuple[str, ...]
    chosen: bool

    @classmethod
    def read(cls, folder: Path) -> "AdapterConfig":
        """Read the configuration in an adapter's folder.

        Raises:
            CheckpointError: it is missing, malformed, or needs what cannot be computed at run time.
        """
        path = folder / CONFIG
        if not path.is_file():
            raise CheckpointError(
                f"{folder} has no {CONFIG}; expected an adapter (LoRA) as PEFT writes it{_near(folder)}"
            )
        given = read_json(path)
        with usable(str(path)):
            check_supported(path, given)
            return cls(
                base=text("base_model_name_or_path", given.get("base_model_name_or_path") or ""),
                rank=whole("r", given.get("r")),
                alpha=number("lora_alpha", given.get("lora_alpha")),
                square_root=switch("use_rslora", given.get("use_rslora") or False),
                ranks={name: whole(f"rank_pattern {name!r}", one) for name, one in _patterns(given, "rank_pattern")},
                alphas={
                    name: number(f"alpha_pattern {name!r}", one) for name, one in _patterns(given, "alpha_pattern")
                },
                targets=_names(given, "target_modules"),
                excluded=_names(given, "exclude_modules"),
                chosen=given.get("layers_to_transform") not in (None, []),
            )

    @property
    def highest_rank(self) -> int:
        """The highest rank of its maps."""
        return max((self.rank, *self.ranks.values()))

    def rank_of(self, name: str) -> int:
        """The rank of the map of this name."""
        return self.ranks.get(_key(self.ranks, name), self.rank)

    def scale_of(self, name: str) -> float:
        """The factor of what is added to the map of this name."""
        rank, alpha = self.rank_of(name), self.alphas.get(_key(self.alphas, name), self.alpha)
        return alpha / (math.sqrt(rank) if self.square_root else rank)

    def adapts(self, name: str) -> bool:
        """Whether the map of this name surely has an adapter."""
        if self.chosen or self.targets in ((), "all-linear") or _matches(self.excluded, name):
            return False
        return _matches(self.targets, name)


def check_supported(path: Path, given: Mapping[str, Any]) -> None:
    """Refuse an adapter that computes something else than LoRA, or that needs other weights.

    Raises:
        CheckpointError: it does; the message names the key.
    """
    kind = given.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(f"{path}: peft_type is {kind!r:.40}; expected 'LORA'")
    if given.get("modules_to_save"):
        raise CheckpointError(
            f"{path}: modules_to_save: it has weights of its own in place of the checkpoint's "
            f"({shown(given['modules_to_save'], 100)}), which only one model can have; merge it into a checkpoint "
            "(mossvl merge), or train without these parts"
        )
    if given.get("init_lora_weights", True) not in PLAIN_STARTS:
        raise CheckpointError(
            f"{path}: init_lora_weights={given['init_lora_weights']!r:.40} changes weights of the checkpoint, too; "
            "save it as a plain adapter with PEFT (path_initial_model_for_weight_conversion)"
        )
    for name in sorted(given.keys() - READ - NEUTRAL):
        if given[name] not in (None, False, "none", [], {}):
            raise CheckpointError(
                f"{path}: {name}={given[name]!r:.40} is not supported at run time, only plain LoRA on linear maps; "
                "merge the adapter into its checkpoint (mossvl merge)"
            )


def _near(folder: Path) -> str:
    inner = folder / "adapter"
    return f"; it is {inner}" if (inner / CONFIG).is_file() else ""


def _patterns(given: Mapping[str, Any], key: str) -> list[tuple[str, Any]]:
    found = list((given.get(key) or {}).items())
    for pattern, _ in found:
        re.compile(_ending(pattern))
    return found


def _names(given: Mapping[str, Any], key: str) -> str | tuple[str, ...]:
    found = given.get(key) or ()
    if isinstance(found, str):
        re.compile(found)
        return found
    return tuple(map(str, found))


def _ending(pattern: str) -> str:
    """A pattern of what names, or what follows a dot in them, must match; as in PEFT."""
    return rf"(.*\.)?({pattern})$"


def _key(patterns: Mapping[str, Any], name: str) -> str:
    """The first pattern that the end of a name matches."""
    return next((one for one in patterns if re.match(_ending(one), name)), name)


def _matches(names: str | tuple[str, ...], name: str) -> bool:
    if isinstance(names, str):
        return re.fullmatch(names, name) is not None
    return any(name == one or name.endswith(f".{one}") for one in names)
