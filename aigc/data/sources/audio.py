"""A folder of WAV, AIFF or FLAC recordings: a sub-folder per class, or none and no labels.

Folders `train`, `val` and `test`, by any of their names, are the splits. Else `testing_list.txt`
names the test clips and `validation_list.txt` clips that are held out, as in Speech Commands
(Warden 2018, arXiv:1804.03209), whose `_background_noise_` is left out; without them about a tenth
of the files is the test split, chosen by a hash of the name.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc.artifact.audio_files import SUFFIXES
from aigc.config import DataConfig
from aigc.data import CorruptRow, Split, permutation
from aigc.data.content import decoded, sha256
from aigc.data.files import left_out, listing
from aigc.data.sounds import check_shape, decode
from aigc.data.splits import Part, Splits, of_folders
from aigc.data.survey import Survey, first_of
from aigc.data.tree import tree

LISTS: dict[Part, str] = {"test": "testing_list.txt", "val": "validation_list.txt"}
NOISE = "_background_noise_"


@dataclass(frozen=True, kw_only=True)
class Recordings:
    """A Source that decodes each file when it is read; samples are (1, samples) float32."""

    name: str
    classes: tuple[str, ...]
    shape: tuple[int, ...]
    sample_rate_hz: int
    sha256: str
    """Hash of names and contents."""
    folder: Path
    files: tuple[tuple[str, str | None], ...]
    """Name relative to the folder and class of each, sorted."""
    survey: Survey

    def __len__(self) -> int:
        return len(self.files)

    def read(self, row: int) -> tuple[NDArray[np.float32], int]:
        """See Source.read; channels are averaged."""
        name, label = self.files[row]
        path = self.folder / name
        try:
            content = path.read_bytes()
        except OSError as error:
            raise CorruptRow(f"{path} cannot be read: {error.strerror}") from error
        sample = decode(content, self.shape, self.sample_rate_hz, str(path))
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


def load(
    config: DataConfig, shape: tuple[int, ...], split: Split, *, conditional: bool = True
) -> Recordings:
    """The recordings below `config.path`, brought to `config.sample_rate_hz` and the model's
    length."""
    folder = Path(config.path).expanduser()
    if not config.path or not folder.is_dir():
        raise ValueError(
            f"data source audio needs a folder of recordings, {config.path!r} is none;"
            " set --data.path DIR"
        )
    check_shape(shape, "audio")
    folder = folder.resolve()
    found = listing(str(folder), SUFFIXES, "audio", beside=tuple(LISTS.values()))
    noise = [name for name in found.names if name.startswith(f"{NOISE}/")]
    found = replace(found, files=tuple(f for f in found.files if f.name not in set(noise)))
    chosen = tree(
        found.names,
        _listed(folder, found.names, of_folders(found.names, str(folder))),
        found,
        split,
        what="recordings",
        each="each",
        conditional=conditional,
        beside=(left_out("recordings of noise alone", noise),) if noise else (),
    )
    files = [found.files[row] for row in chosen.rows]
    classes = chosen.labels.classes
    labels = [classes[label] if classes else None for label in chosen.labels.indices]
    return Recordings(
        name=folder.name,
        classes=classes,
        shape=shape,
        sample_rate_hz=config.sample_rate_hz,
        sha256=sha256(files),
        folder=folder,
        files=tuple(zip((file.name for file in files), labels, strict=True)),
        survey=chosen.survey,
    )


def _listed(folder: Path, names: Sequence[str], splits: Splits) -> Splits:
    """Splits by the lists in the folder, where its folders do not tell.

    Raises ValueError for a list of which no name is that of a recording.
    """
    files = {path.name.lower(): path for path in sorted(folder.glob("*.[tT][xX][tT]"))}
    lists = {part: files[name] for part, name in LISTS.items() if name in files}
    if splits.named or not lists:
        return splits
    parts: dict[str, Part] = dict.fromkeys(names, "train")
    notes = list(splits.notes)
    for part, path in lists.items():
        entries = _entries(decoded(path.read_bytes(), path.name))
        gone = [entry for entry in entries if entry not in parts]
        if gone and len(gone) == len(entries):
            raise ValueError(
                f"{path} names no recording of this folder, its first line is {entries[0]!r}; write"
                " names relative to the folder, such as class/1.wav, or remove the list"
            )
        if gone:
            notes.append(
                f"{path.name} names {len(gone)} recordings that are not there: {first_of(gone)}"
            )
        parts |= {entry: part for entry in entries if entry in parts}
    if "train" not in parts.values():
        raise ValueError(
            f"every recording of {folder} is named by"
            f" {' or '.join(path.name for path in lists.values())}, so that none is left to train"
            " on; take some out of the list, or remove it"
        )
    spelled: dict[Part, str] = {"train": "train"}
    spelled |= {part: path.name for part, path in lists.items()}
    return replace(
        splits,
        parts=tuple(parts[name] for name in names),
        spelled=spelled,
        notes=tuple(notes),
    )


def _entries(text: str) -> list[str]:
    """Names of a list, one a line, with / between their parts."""
    lines = (line.strip().replace("\\", "/").removeprefix("./") for line in text.splitlines())
    return [line for line in lines if line]
