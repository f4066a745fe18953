"""Downloads from the model hub: how much is to come, and in words what fails."""

import logging
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    DryRunError,
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name

from mossvl.errors import CheckpointError, first_line
from mossvl.ranks import first_process

logger = logging.getLogger(__name__)

SECONDS = 10.0
"""Time between two lines that tell how much of a download has come."""


def download(name: str, revision: str | None, files: list[str]) -> Path:
    """Return the folder of a repository's files in the hub's cache, where they are downloaded if they are not there.

    Args:
        name: OWNER/NAME.
        revision: a branch, a tag or a commit; None is the main branch.
        files: patterns of names.

    Raises:
        CheckpointError: they cannot be downloaded; the message says why, and what to do.
    """
    shown = f"{name}@{revision}" if revision else name
    try:
        coming = _coming(name, revision, files)
        if coming:
            _announce(shown, coming)
        with _telling(shown, name, coming):
            return Path(snapshot_download(name, revision=revision, allow_patterns=files))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{shown}: {_reason(name, error)}") from error


def _coming(name: str, revision: str | None, files: list[str]) -> int:
    """Return the bytes that are not in the cache; 0 if all are, or if the hub cannot be asked."""
    try:
        snapshot_download(name, revision=revision, allow_patterns=files, local_files_only=True)
    except LocalEntryNotFoundError:
        pass
    else:
        return 0
    try:
        listed = snapshot_download(name, revision=revision, allow_patterns=files, dry_run=True)
    except DryRunError:
        return 0
    return sum(file.file_size or 0 for file in listed if file.will_download)


def cache_room() -> tuple[Path, int]:
    """Return the folder of the hub's cache, and the bytes that are free on its disk."""
    cache = Path(constants.HF_HUB_CACHE)
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    return cache, shutil.disk_usage(existing).free


def _announce(shown: str, coming: int) -> None:
    """Say what is downloaded, and refuse what has no room.

    Raises:
        CheckpointError: the disk is too full.
    """
    cache, free = cache_room()
    if coming > free:
        raise CheckpointError(
            f"{shown}: {coming / 1e9:.1f} GB are to be downloaded to {cache}, where {free / 1e9:.1f} GB are free; make "
            "room, or name another folder by HF_HOME"
        )
    if first_process():
        logger.warning("%s: %.1f GB are downloaded to %s, once", shown, coming / 1e9, cache)


@contextmanager
def _telling(shown: str, name: str, coming: int) -> Iterator[None]:
    """Say every `SECONDS` how much of a download has come, where stderr is no terminal, which shows bars instead."""
    if not coming or sys.stderr.isatty() or not first_process():
        yield
        return
    blobs = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=name, repo_type="model"), "blobs")
    before = sum(size for file, size in _sizes(blobs) if file.suffix != ".incomplete")
    over = threading.Event()

    def tell() -> None:
        while not over.wait(SECONDS):
            come = min(coming, max(0, sum(size for _, size in _sizes(blobs)) - before))
            logger.warning("%s: %.1f of %.1f GB (%d %%)", shown, come / 1e9, coming / 1e9, 100 * come // coming)

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()


def _sizes(folder: Path) -> Iterator[tuple[Path, int]]:
    """Yield the files of a folder, which may change meanwhile, and their sizes in bytes."""
    for file in folder.glob("*"):
        with suppress(FileNotFoundError):
            yield file, file.stat().st_size


def _reason(name: str, error: Exception) -> str:
    """Return why a download failed, and what to do."""
    if isinstance(error, GatedRepoError):
        return "its owner gives it to those who ask: ask on its page of the model hub, then log in (hf auth login)"
    if isinstance(error, RevisionNotFoundError):
        return f"{name} has no such revision; name a branch, a tag or a commit of it"
    if isinstance(error, RepositoryNotFoundError):
        return "the model hub has no such repository; check the name, or log in if it is private (hf auth login)"
    if isinstance(error, LocalEntryNotFoundError):
        if constants.HF_HUB_OFFLINE:
            return f"not in the cache ({constants.HF_HUB_CACHE}), and HF_HUB_OFFLINE is set; unset it, or name a folder"
        why = first_line(error.__cause__ or error)
        return f"the model hub cannot be reached ({why}); check the connection, or name a folder that has the files"
    return f"cannot be downloaded ({first_line(error)})"
