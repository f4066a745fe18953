"""Weights from safetensors files straight into a model's own memory, as fast as the files can be read.

Several threads read parts of the files. On a CPU they read into the parameters themselves; on a GPU, or where types
differ, into a few buffers that are used again and again. So there is never a second copy of the weights.
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

from mossvl.checkpoints.headers import (
    TensorInfo,
    differences,
    mistyped,
    read_headers,
    require_model_type,
    without_ignored,
)
from mossvl.checkpoints.strict import raise_if_any
from mossvl.errors import CheckpointError

PART_BYTES = 16 * 2**20
"""How much is read at a time, unless one row of a tensor is larger."""

THREADS = 8
BUFFERS_PER_THREAD = 2
"""On a GPU: one is read into while the other is copied to the device."""

Progress = Callable[[int, int], None]
"""Called with the bytes that are loaded and the bytes that there are."""


@dataclass(frozen=True)
class Piece:
    """Some rows of a tensor: where they lie in a part, and where they go."""

    target: Tensor
    dtype: torch.dtype
    start: int
    stop: int

    @property
    def direct(self) -> bool:
        """The file's bytes are those of the target, which a thread can read into."""
        return self.target.device.type == "cpu" and self.target.dtype == self.dtype and self.target.is_contiguous()


@dataclass(frozen=True)
class Part:
    """A range of a file that is read at once, and what is in it: pieces that lie side by side."""

    file: Path
    offset: int
    bytes: int
    pieces: Sequence[Piece]


@dataclass
class Buffer:
    """Memory that is read into, and what has to happen before it may be overwritten."""

    memory: Tensor
    copied: list[torch.cuda.Event] = field(default_factory=list)


@torch.no_grad()
def load_weights(model: PreTrainedModel, folder: str | Path, progress: Progress | None = None) -> None:
    """Fill every parameter of a model from a checkpoint, whose names, shapes and number must be the model's.

    Args:
        model: has storage on its devices, in its dtypes; values are cast where the checkpoint has others. Parameters
            are copied into and never replaced, so that they may be views of larger tensors.
        folder: holds `model.safetensors`, or shards and `model.safetensors.index.json`.
        progress: called in the caller's thread, while weights are read.

    Raises:
        CheckpointError: tensors are missing, unexpected or misshapen (each is named), or a file is missing or broken.
    """
    folder = Path(folder)
    require_model_type(folder)
    targets = model.state_dict()
    found = without_ignored(read_headers(folder))
    if model.config.tie_word_embeddings:
        targets.pop("lm_head.weight")
        found.pop("lm_head.weight", None)
    shapes = {name: tuple(tensor.shape) for name, tensor in targets.items()}
    lines = differences(shapes, {name: info.shape for name, info in found.items()})
    raise_if_any(folder, lines + mistyped(targets, found))
    if any(tensor.is_meta for tensor in targets.values()):
        raise ValueError(
            "the model has parameters on the meta device; give them storage first: model.to_empty(device=…)"
        )
    _Reader(list(_parts(folder, found, targets))).run(progress)


def _offsets(path: Path) -> dict[str, int]:
    """Where in the file each tensor begins. Its header is known to be sound: `read_headers` has read it."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    return {name: 8 + length + entry["data_offsets"][0] for name, entry in header.items() if name != "__metadata__"}


def _parts(folder: Path, found: Mapping[str, TensorInfo], targets: Mapping[str, Tensor]) -> Iterator[Part]:
    """The files cut into parts of up to PART_BYTES, in the order of their bytes."""
    by_file = defaultdict(list)
    for name, info in found.items():
        by_file[info.file].append(name)
    for file, names in by_file.items():
        offsets = _offsets(folder / file)
        pieces: list[Piece] = []
        begin = end = 0
        for name in sorted(names, key=offsets.__getitem__):
            info = found[name]
            whole = targets[name] if info.shape else targets[name][None]
            rows = max(1, len(whole))
            row_bytes = info.bytes // rows
            step = max(1, PART_BYTES // max(1, row_bytes))
            for row in range(0, rows, step):
                target = whole[row : row + step]
                offset, size = offsets[name] + row * row_bytes, len(target) * row_bytes
                aligned = (offset - begin) % info.dtype.itemsize == 0
                if pieces and (offset != end or end + size - begin > PART_BYTES or not aligned):
                    yield Part(folder / file, begin, end - begin, pieces)
                    pieces = []
                if not pieces:
                    begin = offset
                end = offset + size
                pieces.append(Piece(target, info.dtype, offset - begin, end - begin))
        if pieces:
            yield Part(folder / file, begin, end - begin, pieces)


class _Reader:
    """Reads parts in several threads; the first error ends all of them, and is the caller's."""

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
        for device, stream in self.streams.items():  # what was queued on the parameters' memory comes first
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
        """Read a part to where it belongs, unless reading has stopped; gives its bytes."""
        if self.stopped.is_set():
            return 0
        try:
            with open(part.file, "rb", buffering=0) as file:
                file.seek(part.offset)
                if all(piece.direct for piece in part.pieces):
                    for piece in part.pieces:
                        _fill(piece.target, file)
                else:
                    self._read_and_copy(part, file)
        except OSError as error:
            raise CheckpointError(f"{part.file} cannot be read ({error}); get the file again") from error
        return part.bytes

    def _read_and_copy(self, part: Part, file: FileIO) -> None:
        buffer = self.buffers.get()  # there are more than threads, and every thread puts back what it took
        try:
            while buffer.copied:
                buffer.copied.pop().synchronize()
            _fill(buffer.memory[: part.bytes], file)
            for piece in part.pieces:
                source = buffer.memory[piece.start : piece.stop].view(piece.dtype).view(piece.target.shape)
                self._copy(source, piece.target, buffer)
        finally:
            self.buffers.put(buffer)

    def _copy(self, source: Tensor, target: Tensor, buffer: Buffer) -> None:
        if target.device not in self.streams:
            target.copy_(source)
            return
        stream = self.streams[target.device]
        with torch.cuda.stream(stream):
            if source.dtype != target.dtype:  # casts on the device, not here
                source = source.to(target.device, non_blocking=True)
            target.copy_(source, non_blocking=True)
            buffer.copied.append(stream.record_event())


def _fill(memory: Tensor, file: FileIO) -> None:
    """Read as many bytes as a contiguous tensor on the CPU has."""
    left = memory.flatten().view(torch.uint8).numpy().data
    while left:
        count = file.readinto(left)
        if not count:
            raise CheckpointError(f"{file.name!s} is cut off: it ends {len(left)} bytes early; get the file again")
        left = left[count:]
