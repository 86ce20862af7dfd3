"""A folder of WAV, AIFF or FLAC recordings: a sub-folder per class, or none and no labels.

Folders `train`, `val` and `test`, by any of their names, are the splits. Else `testing_list.txt`
names the test clips and `validation_list.txt` clips that are held out, as in Speech Commands
(Warden 2018, arXiv:1804.03209), whose `_background_noise_` is left out; without them about a tenth
of the files is the test split, chosen by a hash of the name.

A row is the beginning of a recording, or, with `data.pieces`, a stretch of it; all stretches of a
recording are in the same split.
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
from aigc.data.content import File, decoded, sha256
from aigc.data.files import left_out, listing
from aigc.data.hashing import hashing
from aigc.data.sounds import check_shape, decode
from aigc.data.splits import Part, Splits, of_folders
from aigc.data.stretches import Length, length_of, lengths_of, starts, stretch
from aigc.data.survey import Recorded, Survey, first_of
from aigc.data.tree import Tree, tree

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


@dataclass(frozen=True, kw_only=True)
class Pieces(Recordings):
    """Stretches of the model's length of all recordings, as loud as they were recorded.

    The last one ends where its recording ends and overlaps the one before; a recording that is
    shorter than the model's length is followed by silence.
    """

    numbers: NDArray[np.int64]
    """(N,) index in `files` of each row's recording."""
    starts: NDArray[np.int64]
    """(N,) first sample of each row at `sample_rate_hz`."""
    unmeasured: frozenset[int]
    """Indices in `files` of recordings without a known length, whose only row is refused."""

    def __len__(self) -> int:
        return len(self.numbers)

    def path_of(self, row: int) -> Path:
        """File that a row is read from."""
        return self.folder / self.files[int(self.numbers[row])][0]

    def read(self, row: int) -> tuple[NDArray[np.float32], int]:
        """See Source.read; only the row's part of the file is decoded."""
        number = int(self.numbers[row])
        path, label = self.path_of(row), self.files[number][1]
        sample = np.zeros(self.shape, np.float32)
        try:
            self.check(number)
            wave = stretch(path, int(self.starts[row]), self.shape[1], self.sample_rate_hz)
        except OSError as error:
            raise CorruptRow(f"{path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise CorruptRow(f"{path} is no whole sound: {error}") from error
        sample[0, : len(wave)] = wave
        return sample, 0 if label is None else self.classes.index(label)

    def check(self, number: int) -> None:
        """Raise ValueError or OSError, with the reason, for one of `files` without a known
        length."""
        if number in self.unmeasured:
            length_of(self.folder / self.files[number][0]).at(self.sample_rate_hz)
            raise ValueError("its length could not be read when the data were opened; start again")

    def fingerprint(self) -> dict[str, Any]:
        """See Source.fingerprint; where pieces begin follows from contents, length and rate."""
        known = super().fingerprint()
        content = hashlib.sha256(f"pieces/{known['sha256']}".encode())
        return known | {"sha256": content.hexdigest(), "level": "kept"}


def load(
    config: DataConfig, shape: tuple[int, ...], split: Split, *, conditional: bool = True
) -> Recordings:
    """The recordings below `config.path`, brought to `config.sample_rate_hz` and the model's
    length, or pieces of it."""
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
    lengths = _in_pieces(lengths_of(found.files), config) if config.pieces else []
    chosen = tree(
        found.names,
        _listed(folder, found.names, of_folders(found.names, str(folder))),
        found,
        split,
        what="recordings",
        each="each",
        conditional=conditional,
        beside=(left_out("recordings of noise alone", noise),) if noise else (),
        repeats=np.array([len(_starts(one, config, shape)) for one in lengths])
        if config.pieces
        else None,
    )
    return _of_split(config, shape, found.files, chosen, lengths)


def _of_split(
    config: DataConfig,
    shape: tuple[int, ...],
    listed: Sequence[File],
    chosen: Tree,
    lengths: Sequence[Length | None],
) -> Recordings:
    """The rows of one split. lengths: those of all that is listed, if a row is a piece."""
    folder = Path(config.path).expanduser().resolve()
    rows, first = np.unique(chosen.rows, return_index=True)
    files = [listed[row] for row in rows]
    classes = chosen.labels.classes
    indices = chosen.labels.indices[first]
    labels = [classes[index] if classes and index >= 0 else None for index in indices]
    if config.pieces:
        own = [lengths[row] for row in rows]
    else:  # to tell what is left out; reading all contents costs more
        own = lengths_of(files) if hashing() else []
    seconds = np.array([one.length / one.rate_hz for one in own if one is not None])
    unknown = [file.name for file, one in zip(files, own, strict=False) if one is None]
    notes = chosen.survey.notes
    if unknown:
        notes += (
            f"recordings whose length cannot be read, which count in no sum of lengths:"
            f" {len(unknown):,} ({first_of(unknown)})",
        )
    row_s = shape[1] / config.sample_rate_hz
    recorded = Recorded.of(seconds, row_s, pieces=config.pieces) if own else None
    facts: dict[str, Any] = {
        "name": folder.name,
        "classes": classes,
        "shape": shape,
        "sample_rate_hz": config.sample_rate_hz,
        "sha256": sha256(files),
        "folder": folder,
        "files": tuple(zip((file.name for file in files), labels, strict=True)),
        "survey": replace(chosen.survey, sounds=recorded, notes=notes),
    }
    if not config.pieces:
        return Recordings(**facts)
    return Pieces(
        **facts,
        unmeasured=frozenset(number for number, one in enumerate(own) if one is None),
        numbers=np.searchsorted(rows, chosen.rows),
        starts=np.concatenate([_starts(one, config, shape) for one in own]),
    )


def _in_pieces(lengths: Sequence[Length | None], config: DataConfig) -> list[Length | None]:
    """None also for recordings that are not brought to the rate, which reading their rows says."""

    def taken(one: Length) -> bool:
        try:
            return one.at(config.sample_rate_hz) >= 0
        except ValueError:
            return False

    return [one if one is not None and taken(one) else None for one in lengths]


def _starts(length: Length | None, config: DataConfig, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """First samples of a recording's pieces; one also of a recording that cannot be read."""
    return starts(length.at(config.sample_rate_hz) if length else 0, shape[1])


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
