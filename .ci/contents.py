"""Checks what the wheel and the sdist in a folder hold: the files under version control that they should, no others.

python .ci/contents.py dist
"""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

LARGEST = 25 * 2**20
"""Bytes of either file: mossvl-tiny's weights, 16 MB, are most of it."""
SOURCES = ("src/", "tests/", "examples/", "benchmarks/", "docs/", ".ci/")
BESIDE = {"LICENSE", "README.md", "pyproject.toml", "constraints.txt", "run"}


def complain(where: Path, what: str, names: set[str]) -> None:
    if names:
        sys.exit(f"{where.name} {what}: {', '.join(sorted(names)[:10])}")


def main(folder: Path) -> None:
    tracked = set(subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True).stdout.split("\n"))
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    for file in (wheel, sdist):
        print(f"{file.name}: {file.stat().st_size / 2**20:.1f} MiB")
        if file.stat().st_size > LARGEST:
            sys.exit(f"{file.name} is larger than {LARGEST / 2**20:g} MiB")

    held = {name for name in zipfile.ZipFile(wheel).namelist() if not name.split("/")[0].endswith(".dist-info")}
    package = {name.removeprefix("src/") for name in tracked if name.startswith("src/")}
    complain(wheel, "has files that are not under version control", held - package)
    complain(wheel, "lacks files of the package", package - held)
    needed = {"mossvl/py.typed", "mossvl/tiny/checkpoint/model.safetensors", "mossvl/server/page/index.html"}
    complain(wheel, "lacks", needed - held)

    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    complain(sdist, "has files that are not under version control", held - tracked - {"PKG-INFO"})
    sources = {name for name in tracked if name.startswith(SOURCES)}
    complain(sdist, "lacks", (sources | BESIDE) - held)


main(Path(sys.argv[1]))
