"""Model inputs by name: this model's names, and those by which trainers for any model pass them on."""

from collections.abc import Iterator
from typing import Any, Self

from torch import Tensor
from transformers import BatchFeature

FOLLOWING = ("grid_thw", "media_nums_per_sample", "cross_attention_mask")
"""Names whose values follow from `input_ids` and `image_grid_thw` where all media are images."""


class ModelInputs(BatchFeature):
    """A `BatchFeature` that lists only the names that transformers knows, where these are all that the model needs.

    With images alone, `grid_thw` is also named `image_grid_thw`, and the names of `FOLLOWING` can be read, changed and
    removed, but are not listed: `len`, iteration, `items` and `**` leave them out. Trainers pad, continue and split the
    listed values, and pass them on by a closed list of names. Videos need all names.
    """

    data: dict[str, Any]

    @classmethod
    def of(cls, inputs: dict[str, Any], seen: bool = True) -> Self:
        """Model inputs from the published names.

        Args:
            seen: whether every medium has its image tokens in its prompt.
        """
        grids = inputs.get("grid_thw")
        images = isinstance(grids, Tensor) and bool((grids[:, 0] == 1).all())
        return cls({**inputs, "image_grid_thw": grids} if images and seen else inputs)

    def __iter__(self) -> Iterator[str]:
        listed = "grid_thw" in self.data and "image_grid_thw" not in self.data
        return (name for name in self.data if listed or name not in FOLLOWING)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def to(self, *args: Any, **kwargs: Any) -> "ModelInputs":
        """As in transformers; values that are not listed move, too."""
        self.data = BatchFeature(self.data).to(*args, **kwargs).data
        return self
