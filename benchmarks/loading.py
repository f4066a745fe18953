"""How fast a checkpoint of the published size is loaded from a local disk, against plainly reading its files.

    python benchmarks/loading.py FOLDER

writes 23 GB of random weights to FOLDER, and removes them again. The files leave the page cache before each reading;
the last line is of files that are in it.
"""

import os
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from mossvl.checkpoints.weights import PART_BYTES, THREADS, load_weights
from mossvl.loading import random_model
from mossvl.model.configuration import MossVLConfig
from mossvl.offline.interface import MossVLForConditionalGeneration


def forget(files: list[Path]) -> None:
    """Drop files from the page cache."""
    for path in files:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(files: list[Path]) -> None:
    """Read them in as many threads and as large parts as loading does, and drop what was read."""

    def part(path: Path, offset: int) -> None:
        with open(path, "rb", buffering=0) as file:
            file.seek(offset)
            file.readinto(bytearray(PART_BYTES))

    parts = [(path, offset) for path in files for offset in range(0, path.stat().st_size, PART_BYTES)]
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda one: part(*one), parts))


def main(parent: str) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    folder = Path(tempfile.mkdtemp(dir=parent, prefix="mossvl-loading-"))
    try:
        random_model(device=device, dtype="bfloat16").save_pretrained(folder)
        torch.cuda.empty_cache()
        files = sorted(folder.glob("*.safetensors"))
        size = sum(file.stat().st_size for file in files) / 1e9
        print(f"{size:.1f} GB in {len(files)} files")
        with torch.device("meta"):
            model = MossVLForConditionalGeneration(MossVLConfig(dtype=torch.bfloat16))
        model = model.bfloat16().to_empty(device=device)

        def timed(name: str, what, *given, cold: bool = True) -> None:
            if cold:
                forget(files)
            begun = time.perf_counter()
            what(*given)
            seconds = time.perf_counter() - begun
            print(f"{name}: {seconds:.1f} s, {size / seconds:.2f} GB/s", flush=True)

        timed("read from disk", read, files)
        timed("loaded from disk", load_weights, model, folder)
        timed("read from disk", read, files)
        timed("loaded from disk", load_weights, model, folder)
        timed("loaded from the page cache", load_weights, model, folder, cold=False)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
