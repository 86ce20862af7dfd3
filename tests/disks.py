"""Small disks, to be filled: mounted for a test, where that is permitted."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, *options: str) -> Iterator[Path]:
    """A tmpfs on `folder`, of 1 MiB or as its mount options say. Skips where that is forbidden."""
    folder.mkdir(parents=True, exist_ok=True)
    told = ",".join(("size=1m", *options))
    command = ["mount", "-t", "tmpfs", "-o", told, "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting a file system is not permitted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder: Path, *options: str) -> None:
    """Change the options of a mounted disk."""
    subprocess.run(["mount", "-o", ",".join(("remount", *options)), str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Write a file until not one byte more fits; returns it."""
    path = folder / "filler"
    with path.open("ab", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass
    return path
