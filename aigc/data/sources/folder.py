"""A folder of pictures: a sub-folder per class, or none and no labels.

Folders `train`, `val` and `test`, by any of their names, are the splits; else about a tenth of the
files is the test split, chosen by a hash of the name, so that a file stays where it is when others
come or go.
"""

from dataclasses import dataclass
from pathlib import Path

from aigc.config import DataConfig
from aigc.data import CorruptRow, Split
from aigc.data.content import sha256
from aigc.data.files import listing
from aigc.data.once import remembered
from aigc.data.pictures import SUFFIXES, Pictures
from aigc.data.splits import of_folders
from aigc.data.tree import tree


@dataclass(frozen=True, kw_only=True)
class Folder(Pictures):
    """A file is a row."""

    folder: Path
    files: tuple[str, ...]
    """Names relative to the folder, sorted."""

    def encoded(self, row: int) -> tuple[bytes, str]:
        """See Pictures.encoded."""
        path = self.folder / self.files[row]
        try:
            return path.read_bytes(), str(path)
        except OSError as error:
            raise CorruptRow(f"{path} cannot be read: {error.strerror}") from error


def load(
    config: DataConfig, shape: tuple[int, ...], split: Split, *, conditional: bool = True
) -> Folder:
    """The pictures below `config.path`. sha256 covers names and contents."""
    folder = Path(config.path).expanduser()
    if not config.path or not folder.is_dir():
        raise ValueError(
            f"data source folder needs a folder of pictures, {config.path!r} is none;"
            " set --data.path DIR"
        )
    folder = folder.resolve()
    found = listing(str(folder), SUFFIXES, "folder")
    names = found.names
    splits = remembered(("splits", str(folder)), lambda: of_folders(names, str(folder)))
    chosen = tree(
        names,
        splits,
        found,
        split,
        what="pictures",
        each="every picture",
        conditional=conditional,
    )
    files = [found.files[row] for row in chosen.rows.tolist()]
    return Folder(
        name=folder.name,
        shape=shape,
        sha256=sha256(files),
        labels=chosen.labels,
        survey=chosen.survey,
        folder=folder,
        files=tuple(file.name for file in files),
    )
