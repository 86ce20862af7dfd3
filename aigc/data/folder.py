"""A folder of pictures: a sub-folder per class, or none and no labels.

`train/` and `test/` sub-folders are the splits; else about a tenth of the files is the test split,
chosen by a hash of the name, so that a file stays where it is when others come or go.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aigc.config import DataConfig
from aigc.data import CorruptRow, Split
from aigc.data._files import listing, sha256
from aigc.data._pictures import SUFFIXES, Pictures, in_order


@dataclass(frozen=True, kw_only=True)
class Folder(Pictures):
    """A file is a row."""

    folder: Path
    files: tuple[tuple[str, str | None], ...]
    """Name relative to the folder and class of each, sorted."""

    def __len__(self) -> int:
        return len(self.files)

    def encoded(self, row: int) -> tuple[bytes, Any, str]:
        """See Pictures.encoded."""
        name, label = self.files[row]
        path = self.folder / name
        try:
            return path.read_bytes(), label, str(path)
        except OSError as error:
            raise CorruptRow(f"{path} cannot be read: {error}") from error


def load(config: DataConfig, shape: tuple[int, ...], split: Split) -> Folder:
    """The pictures below `config.path`. sha256 covers names and contents."""
    folder = Path(config.path)
    if not config.path or not folder.is_dir():
        raise ValueError(
            f"data source folder needs a folder of pictures, {config.path!r} is none;"
            " set --data.path DIR"
        )
    files = listing(str(folder.resolve()), SUFFIXES, "folder")
    has_splits = all((folder / part).is_dir() for part in ("train", "test"))
    if has_splits:
        files = [file for file in files if file.name.startswith(("train/", "test/"))]
    labelled = {file.name: _class(file.name, has_splits) for file in files}
    if len({label is None for label in labelled.values()}) > 1:
        loose = next(name for name, label in labelled.items() if label is None)
        raise ValueError(
            f"{folder} holds pictures in sub-folders and beside them, such as {loose};"
            " put every picture into the folder of its class, or all into one folder"
        )
    chosen = [file for file in files if _split(file.name, has_splits) == split]
    if not chosen:
        raise ValueError(f"{folder} has no picture in its {split} split; add more pictures")
    return Folder(
        name=folder.resolve().name,
        classes=in_order({label for label in labelled.values() if label is not None}),
        shape=shape,
        sha256=sha256(chosen),
        folder=folder.resolve(),
        files=tuple((file.name, labelled[file.name]) for file in chosen),
    )


def _class(name: str, has_splits: bool) -> str | None:
    """The first sub-folder, behind that of the split."""
    parts = name.split("/")[1 if has_splits else 0 :]
    return parts[0] if len(parts) > 1 else None


def _split(name: str, has_splits: bool) -> Split:
    if has_splits:
        return "train" if name.startswith("train/") else "test"
    digest = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return "test" if digest % 10 == 0 else "train"
