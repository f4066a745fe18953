"""`mossvl quantize`: a checkpoint with weights of 8 or 4 bits."""

from enum import StrEnum
from typing import Annotated

import typer

from mossvl.cli.checkpoint import check_checkpoint, prepare
from mossvl.cli.options import NewFolder, WeightFlags
from mossvl.cli.places import CHECKPOINT


class To(StrEnum):
    """What weights are quantized to."""

    FP8 = "fp8"
    INT4 = "int4"


def quantize(
    *,
    checkpoint: Annotated[
        str,
        typer.Argument(metavar="CHECKPOINT", help="Checkpoint: a folder, or a repository on the model hub."),
        CHECKPOINT,
    ],
    output: NewFolder,
    to: Annotated[To, typer.Option("--to", help="What weights are quantized to.")],
    device: Annotated[str | None, typer.Option(help=WeightFlags.flags["device"].help, show_default=False)] = None,
    dtype: Annotated[str, typer.Option(help="Dtype of the weights that are not quantized.")] = "bfloat16",
) -> None:
    """Quantize the weights of a checkpoint, and write a checkpoint of compressed-tensors."""
    folder = check_checkpoint(checkpoint)
    prepare()
    from mossvl.quantizing import quantize as quantized

    quantized(folder, output, to.value, device, dtype)
    print(output)
