"""A folder of WAV or FLAC recordings: a sub-folder per class, or none and no labels.

`train/` and `test/` sub-folders are the splits. Else `testing_list.txt` names the test clips, as in
Speech Commands (Warden 2018, arXiv:1804.03209), whose `_background_noise_` is left out; without it
about a tenth of the files is the test split, chosen by a hash of the name.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc.artifact.sound import SUFFIXES, read_sound
from aigc.config import DataConfig
from aigc.data import CorruptRow, Split, permutation
from aigc.data._files import File, in_classes, listing, sha256, split_of
from aigc.data._pictures import in_order
from aigc.data._sounds import check_shape, clip

TEST_LIST = "testing_list.txt"


@dataclass(frozen=True, kw_only=True)
class Recordings:
    """A Source that decodes each file when it is read; samples are (1, samples) float32."""

    name: str
    classes: tuple[str, ...]
    shape: tuple[int, ...]
    sample_rate_hz: int
    sha256: str
    """Of names and contents."""
    folder: Path
    files: tuple[tuple[str, str | None], ...]
    """Name relative to the folder and class of each, sorted."""

    def __len__(self) -> int:
        return len(self.files)

    def read(self, row: int) -> tuple[NDArray[np.float32], int]:
        """See Source.read; channels are averaged."""
        name, label = self.files[row]
        path = self.folder / name
        try:
            found = read_sound(path.read_bytes())
        except OSError as error:
            raise CorruptRow(f"{path} cannot be read: {error}") from error
        except ValueError as error:
            raise CorruptRow(f"{path} is no whole sound: {error}") from error
        wave = found.samples.mean(0)
        sample = clip(wave, found.rate_hz, self.sample_rate_hz, self.shape[1])
        return sample, 0 if label is None else self.classes.index(label)

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """See Source.order."""
        return permutation(seed, epoch, len(self))

    def fingerprint(self) -> dict[str, Any]:
        """See Source.fingerprint; sha256 covers the length and rate that sounds are brought to."""
        brought_to = f"{self.sha256}/{self.shape}/{self.sample_rate_hz}/{len(self)}"
        content = hashlib.sha256(brought_to.encode())
        content.update(json.dumps(self.classes).encode())
        return {
            "name": self.name,
            "samples": len(self),
            "classes": list(self.classes),
            "sha256": content.hexdigest(),
            "sample_rate_hz": self.sample_rate_hz,
        }


def load(config: DataConfig, shape: tuple[int, ...], split: Split) -> Recordings:
    """The recordings below `config.path`, brought to `config.sample_rate_hz` and the model's
    length."""
    folder = Path(config.path)
    if not config.path or not folder.is_dir():
        raise ValueError(
            f"data source audio needs a folder of recordings, {config.path!r} is none;"
            " set --data.path DIR"
        )
    check_shape(shape, "audio")
    folder = folder.resolve()
    files = [file for file in listing(str(folder), SUFFIXES, "audio") if not _noise(file)]
    labelled, has_splits = in_classes(folder, files, "recordings", "each")
    listed = _listed(folder)
    chosen = [
        file
        for file in files
        if file.name in labelled and _split(file.name, has_splits, listed) == split
    ]
    if not chosen:
        raise ValueError(f"{folder} has no recording in its {split} split; add more recordings")
    return Recordings(
        name=folder.name,
        classes=in_order({label for label in labelled.values() if label is not None}),
        shape=shape,
        sample_rate_hz=config.sample_rate_hz,
        sha256=sha256(chosen),
        folder=folder,
        files=tuple((file.name, labelled[file.name]) for file in chosen),
    )


def _noise(file: File) -> bool:
    return file.name.startswith("_background_noise_/")


def _listed(folder: Path) -> frozenset[str] | None:
    """The names in testing_list.txt, None without it."""
    path = folder / TEST_LIST
    return frozenset(path.read_text().split()) if path.is_file() else None


def _split(name: str, has_splits: bool, listed: frozenset[str] | None) -> Split:
    if listed is not None and not has_splits:
        return "test" if name in listed else "train"
    return split_of(name, has_splits)
