"""Where a rank's part of a tensor lies in a file."""

import math
from dataclasses import dataclass

from mossvl.checkpoints.headers import TensorInfo
from mossvl.errors import CheckpointError
from mossvl.parallel.share import BY_COLUMNS, Share
from mossvl.quantization.formats import Target


@dataclass(frozen=True)
class Cut:
    """The part of a tensor that a rank reads.

    Attributes:
        size: number of parts of the tensor; 1 if it is not cut.
        start: byte of the tensor with which the part begins.
        rows, stride: where columns are cut, the number of rows, and bytes from one to the next.
    """

    size: int = 1
    start: int = 0
    rows: int = 0
    stride: int = 0


WHOLE = Cut()


def cut_of(name: str, target: Target, info: TensorInfo, share: Share, rows: int) -> Cut:
    """How a tensor of a file is cut for a target, which has all of its values, or those of one of `share.size` parts.

    A map that is cut by columns may be stored in any shape whose values are in the order of the weight's rows, of which
    there are `rows`.

    Raises:
        CheckpointError: the target has neither.
    """
    values, whole = math.prod(target.shape), math.prod(info.shape)
    if values == whole:
        return WHOLE
    if values * share.size != whole:
        raise CheckpointError(f"{name} is {list(info.shape)}, of which no {share.size} equal parts can be read")
    part = info.bytes // share.size
    if not BY_COLUMNS.match(name):
        return Cut(share.size, share.rank * part)
    return Cut(share.size, share.rank * (part // rows), rows, info.bytes // rows)
