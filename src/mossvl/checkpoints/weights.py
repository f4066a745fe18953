"""Reads weights from safetensors files into a model's parameters, without a second copy of the weights.

Several threads read parts of the files: on a CPU into the parameters themselves; on a GPU, or where dtypes differ, into
a few reused buffers. Rows of weights that the model has quantized, and the files have not, are quantized there.
"""

import json
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from queue import SimpleQueue

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mossvl.checkpoints.cuts import WHOLE, Cut, cut_of
from mossvl.checkpoints.headers import (
    TensorInfo,
    differences,
    mistyped,
    read_headers,
    require_model_type,
    without_ignored,
)
from mossvl.checkpoints.quantizers import read_format
from mossvl.checkpoints.strict import expected_tensors, raise_if_any
from mossvl.errors import CheckpointError
from mossvl.parallel.share import BY_COLUMNS, Share
from mossvl.quantization.formats import Target, Unquantized, Whole, targets_of

PART_BYTES = 16 * 2**20
"""Bytes of a read, unless one row of a tensor is larger."""

THREADS = 8
BUFFERS_PER_THREAD = 2
"""On a GPU: one buffer is filled while the other is copied to the device."""

Progress = Callable[[int, int], None]
"""Called with the number of bytes loaded so far, and of all bytes."""


@dataclass(frozen=True)
class Piece:
    """Rows of a tensor: bytes `start` to `stop` of a part, of `dtype`, to be written to `target`."""

    target: Target
    dtype: torch.dtype
    start: int
    stop: int

    @property
    def direct(self) -> bool:
        """Whether a thread can read the file's bytes into the target."""
        target = self.target
        if not isinstance(target, Tensor):
            return False
        return target.device.type == "cpu" and target.dtype == self.dtype and target.is_contiguous()


@dataclass(frozen=True)
class Part:
    """A range of a file that is read at once, and the adjacent pieces in it.

    Attributes:
        run, stride: where columns of a tensor are read: bytes that are adjacent, and from one such run to the next.
    """

    file: Path
    offset: int
    bytes: int
    pieces: Sequence[Piece]
    run: int = 0
    stride: int = 0


@dataclass
class Buffer:
    """Memory to read into; it may be overwritten after the events of `copied`."""

    memory: Tensor
    copied: list[torch.cuda.Event] = field(default_factory=list)


@torch.no_grad()
def load_weights(
    model: PreTrainedModel, folder: str | Path, progress: Progress | None = None, share: Share | None = None
) -> None:
    """Fill every parameter of a model from a checkpoint, whose names, shapes and number must be the model's.

    Args:
        model: its parameters have storage, and dtypes to which values are cast. Parameters are written in place, so
            that they may be views of larger tensors. Quantized maps (`QuantizedLinear`) are filled with quantized
            weights as they are, and else quantize the weights.
        folder: holds `model.safetensors`, or shards and `model.safetensors.index.json`.
        progress: called in the caller's thread, while weights are read.
        share: the model is this part of the checkpoint's: of a tensor that is cut, no more than the part is read.

    Raises:
        CheckpointError: tensors are missing, unexpected or misshapen (each is named), or a file is missing or broken.
        ValueError: a parameter is on the meta device.
    """
    folder = Path(folder)
    require_model_type(folder)
    form = read_format(folder)
    found = without_ignored(read_headers(folder))
    targets, finishing = targets_of(model, form, found, Whole.of if share is None else share.whole)
    if not finishing and not isinstance(form, Unquantized):
        raise CheckpointError(
            f"{folder} is quantized ({form.told}), and the model is not; mossvl.load makes one that fits"
        )
    if model.config.tie_word_embeddings:
        targets.pop("lm_head.weight")
        found.pop("lm_head.weight", None)
    whole = targets if share is None else expected_tensors(type(model), model.config, form, found)
    shapes = {name: tuple(tensor.shape) for name, tensor in whole.items()}
    lines = differences(shapes, {name: info.shape for name, info in found.items()})
    raise_if_any(folder, lines + mistyped(whole, found))
    if any(tensor.is_meta for tensor in targets.values()):
        raise ValueError(
            "the model has parameters on the meta device; give them storage first: model.to_empty(device=…)"
        )
    cuts: dict[str, Cut] = {}
    if share is not None:
        rows = model.config.text_config.hidden_size
        cuts = {name: cut_of(name, targets[name], info, share, rows) for name, info in found.items()}
    _Reader(list(_parts(folder, found, targets, cuts))).run(progress)
    if share is not None and share.rank:  # A bias is added once, by rank 0.
        for name, target in targets.items():
            if name.endswith(".bias") and BY_COLUMNS.match(name):
                target.copy_(torch.zeros(target.shape))
    for name, finish in finishing.items():
        try:
            finish()
        except CheckpointError as error:
            raise CheckpointError(f"{folder}: {name}: {error}") from error


def _offsets(path: Path) -> dict[str, int]:
    """Return the byte offset of each tensor in a file, whose header `read_headers` has validated."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    return {name: 8 + length + entry["data_offsets"][0] for name, entry in header.items() if name != "__metadata__"}


def _parts(
    folder: Path, found: Mapping[str, TensorInfo], targets: Mapping[str, Target], cuts: Mapping[str, Cut]
) -> Iterator[Part]:
    """Split the files into parts of up to PART_BYTES, in the order of their bytes."""
    by_file = defaultdict(list)
    for name, info in found.items():
        by_file[info.file].append(name)
    for file, names in by_file.items():
        offsets = _offsets(folder / file)
        pieces: list[Piece] = []
        begin = end = 0
        for name in sorted(names, key=offsets.__getitem__):
            info, target, cut = found[name], targets[name], cuts.get(name, WHOLE)
            whole = target[None] if isinstance(target, Tensor) and not target.shape else target
            whole = whole.view(cut.rows, -1) if isinstance(whole, Tensor) and cut.stride else whole
            rows = max(1, len(whole))
            row_bytes = info.bytes // cut.size // rows
            step = max(1, PART_BYTES // max(1, row_bytes))
            for row in range(0, rows, step):
                part = whole[row : row + step]
                offset, size = offsets[name] + cut.start + row * (cut.stride or row_bytes), len(part) * row_bytes
                if cut.stride:
                    piece = Piece(part, info.dtype, 0, size)
                    yield Part(folder / file, offset, size, [piece], row_bytes, cut.stride)
                    continue
                aligned = (offset - begin) % info.dtype.itemsize == 0
                if pieces and (offset != end or end + size - begin > PART_BYTES or not aligned):
                    yield Part(folder / file, begin, end - begin, pieces)
                    pieces = []
                if not pieces:
                    begin = offset
                end = offset + size
                pieces.append(Piece(part, info.dtype, offset - begin, end - begin))
        if pieces:
            yield Part(folder / file, begin, end - begin, pieces)


class _Reader:
    """Reads parts in several threads; the first error stops all threads, and `run` raises it."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = parts
        self.stopped = threading.Event()
        staged = [part.bytes for part in parts if not all(piece.direct for piece in part.pieces)]
        devices = {piece.target.device for part in parts for piece in part.pieces}
        self.streams = {device: torch.cuda.Stream(device) for device in devices if device.type == "cuda"}
        self.buffers: SimpleQueue[Buffer] = SimpleQueue()
        for _ in range(min(len(staged), THREADS * (BUFFERS_PER_THREAD if self.streams else 1))):
            self.buffers.put(Buffer(torch.empty(max(staged), dtype=torch.uint8, pin_memory=bool(self.streams))))

    def run(self, progress: Progress | None) -> None:
        for device, stream in self.streams.items():  # work queued on the parameters comes first
            stream.wait_stream(torch.cuda.current_stream(device))
        done, total = 0, sum(part.bytes for part in self.parts)
        with ThreadPoolExecutor(THREADS, "weights") as pool:
            try:
                for reading in as_completed([pool.submit(self._read, part) for part in self.parts]):
                    done += reading.result()
                    if progress is not None:
                        progress(done, total)
            finally:
                self.stopped.set()
        for stream in self.streams.values():
            stream.synchronize()

    def _read(self, part: Part) -> int:
        """Read a part into its targets, unless reading has stopped; return the number of bytes read."""
        if self.stopped.is_set():
            return 0
        try:
            with open(part.file, "rb", buffering=0) as file:
                if part.pieces and all(piece.direct for piece in part.pieces):
                    for piece in part.pieces:
                        assert isinstance(piece.target, Tensor)
                        _fill(piece.target, file, part, piece.start)
                else:
                    self._read_and_copy(part, file)
        except OSError as error:
            raise CheckpointError(f"{part.file} cannot be read ({error}); get the file again") from error
        return part.bytes

    def _read_and_copy(self, part: Part, file: FileIO) -> None:
        buffer = self.buffers.get()  # enough for all threads, each of which puts its buffer back
        try:
            while buffer.copied:
                buffer.copied.pop().synchronize()
            _fill(buffer.memory[: part.bytes], file, part)
            for piece in part.pieces:
                source = buffer.memory[piece.start : piece.stop].view(piece.dtype).view(piece.target.shape)
                self._copy(source, piece.target, buffer)
        finally:
            self.buffers.put(buffer)

    def _copy(self, source: Tensor, target: Target, buffer: Buffer) -> None:
        if target.device not in self.streams:
            target.copy_(source)
            return
        stream = self.streams[target.device]
        with torch.cuda.stream(stream):
            if source.dtype != target.dtype:  # cast on the device
                source = source.to(target.device, non_blocking=True)
            target.copy_(source, non_blocking=True)
            buffer.copied.append(stream.record_event())


def _fill(memory: Tensor, file: FileIO, part: Part, start: int = 0) -> None:
    """Fill a contiguous tensor on the CPU from a part of a file, from byte `start` of the part on."""
    left = memory.flatten().view(torch.uint8).numpy().data
    run = part.run or len(left)
    for number, first in enumerate(range(0, len(left), run)):
        file.seek(part.offset + start + number * part.stride)
        _fill_run(left[first : first + run], file)


def _fill_run(left: memoryview, file: FileIO) -> None:
    while left:
        count = file.readinto(left)
        if not count:
            raise CheckpointError(f"{file.name!s} is cut off: it ends {len(left)} bytes early; get the file again")
        left = left[count:]
