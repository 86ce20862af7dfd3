"""A folder of pictures: a sub-folder per class, or none and no labels.

`train/` and `test/` sub-folders are the splits; else about a tenth of the files is the test split,
chosen by a hash of the name, so that a file stays where it is when others come or go.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aigc.config import DataConfig
from aigc.data import CorruptRow, Split
from aigc.data._files import in_classes, listing, sha256, split_of
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
    labelled, has_splits = in_classes(folder, files, "pictures", "every picture")
    chosen = [
        file for file in files if file.name in labelled and split_of(file.name, has_splits) == split
    ]
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
