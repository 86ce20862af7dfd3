"""Rows of several things that belong together: `0017.png`, `0017.txt`, `0017.wav`.

A row is a record: a structured array of shape () with a field per modality, and for each a field
`mask/<modality>` that says whether the row has it. What it has not is zeros.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc.artifact.sound import SUFFIXES as SOUNDS
from aigc.artifact.sound import read_sound
from aigc.config import DataConfig
from aigc.data import CorruptRow, Shapes, Split, permutation, scaled
from aigc.data._files import File, fetch, listing, sha256, split_of
from aigc.data._lines import characters
from aigc.data._pictures import SUFFIXES as PICTURES
from aigc.data._pictures import decode, in_order
from aigc.data._sounds import check_shape, clip

MASK = "mask/"
SUFFIXES = {"image": PICTURES, "text": (".txt",), "audio": SOUNDS}
Read = Callable[[str, int], NDArray[Any]]
"""A modality and a number -> what is to stand in the row. Raises CorruptRow."""


def record(shapes: Shapes) -> np.dtype[np.void]:
    """The dtype of a row; texts are int64 tokens, all else is float32."""
    fields: list[Any] = []
    for name, shape in shapes.items():
        kind = np.int64 if name == "text" else np.float32
        fields += [(name, kind, shape), (f"{MASK}{name}", np.float32)]
    return np.dtype(fields)


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """A Source that puts rows together from parts when they are read."""

    name: str
    shapes: Shapes
    read_part: Read
    parts: Mapping[str, NDArray[np.int64]]
    """Per modality the number of each row's part, -1 where it has none."""
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    vocabulary: tuple[str, ...]
    sample_rate_hz: int
    sha256: str
    """Of the parts."""

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, row: int) -> tuple[NDArray[Any], int]:
        """See Source.read."""
        made = np.zeros((), record(self.shapes))
        for modality, numbers in self.parts.items():
            if numbers[row] >= 0:
                made[modality] = self.read_part(modality, int(numbers[row]))
                made[f"{MASK}{modality}"] = 1
        return made, int(self.labels[row])

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """See Source.order."""
        return permutation(seed, epoch, len(self))

    def fingerprint(self) -> dict[str, Any]:
        """See Source.fingerprint; sha256 covers parts, shapes, and how parts make rows."""
        facts = [self.sha256, self.shapes, self.sample_rate_hz, self.classes, self.vocabulary]
        content = hashlib.sha256(json.dumps(facts).encode())
        for modality in self.shapes:
            content.update(self.parts[modality].tobytes())
        content.update(self.labels.tobytes())
        return {
            "name": self.name,
            "samples": len(self),
            "classes": list(self.classes),
            "sha256": content.hexdigest(),
            "sample_rate_hz": self.sample_rate_hz,
            "vocabulary": list(self.vocabulary),
        }


@dataclass(frozen=True, kw_only=True)
class _Files:
    """Reads parts of rows from files."""

    files: Sequence[File]
    shapes: Shapes
    tokens: Mapping[int, NDArray[np.int64]]
    rate_hz: int

    def __call__(self, modality: str, number: int) -> NDArray[Any]:
        if modality == "text":
            return self.tokens[number]
        file, shape = self.files[number], self.shapes[modality]
        try:
            content = fetch(file)
        except OSError as error:
            raise CorruptRow(f"{file.name} cannot be read: {error}") from error
        if modality == "image":
            return scaled(decode(content, shape, file.name))
        try:
            found = read_sound(content)
        except ValueError as error:
            raise CorruptRow(f"{file.name} is no whole sound: {error}") from error
        return clip(found.samples.mean(0), found.rate_hz, self.rate_hz, shape[1])


def load(config: DataConfig, shapes: Shapes, split: Split) -> Pairs:
    """Files below `config.path` that differ in their suffix alone are a row.

    A sub-folder is a class; `train/` and `test/` folders are the splits, else about a tenth of the
    rows is the test split, chosen by a hash of the name. Raises ValueError for texts that do not
    fit, or a split without rows.
    """
    suffixes = {suffix: name for name in shapes for suffix in SUFFIXES[name]}
    files = listing(config.path, tuple(suffixes), "paired")
    names = [PurePosixPath(file.name) for file in files]
    has_splits = {"train", "test"} <= {name.parts[0] for name in names if len(name.parts) > 1}
    if "audio" in shapes:
        check_shape(shapes["audio"], "paired")
    rows: dict[PurePosixPath, dict[str, int]] = {}
    for number, name in enumerate(names):
        if not has_splits or name.parts[0] in ("train", "test"):
            modality = suffixes[name.suffix.lower()]
            rows.setdefault(name.with_suffix(""), {})[modality] = number
    texts = {
        row["text"]: fetch(files[row["text"]]).decode().strip()
        for row in rows.values()
        if "text" in row
    }
    vocabulary = characters(["", *texts.values()])
    tokens = vocabulary.rows(list(texts.values()), shapes["text"][0]) if texts else ()
    classes = in_order({_class(row, has_splits) for row in rows} - {""})
    chosen = [row for row in rows if split_of(row.as_posix(), has_splits) == split]
    if not chosen:
        raise ValueError(f"{config.path} has no row in its {split} split; add more rows")
    numbers = {name: np.array([rows[row].get(name, -1) for row in chosen]) for name in shapes}
    used = [files[number] for row in chosen for number in rows[row].values()]
    return Pairs(
        name=PurePosixPath(config.path).name or "paired",
        shapes=shapes,
        read_part=_Files(
            files=files,
            shapes=shapes,
            tokens=dict(zip(texts, tokens, strict=True)),
            rate_hz=config.sample_rate_hz,
        ),
        parts=numbers,
        labels=np.array(
            [classes.index(_class(row, has_splits)) if classes else 0 for row in chosen], np.int64
        ),
        classes=classes,
        vocabulary=vocabulary.pieces,
        sample_rate_hz=config.sample_rate_hz,
        sha256=sha256(used),
    )


def _class(row: PurePosixPath, has_splits: bool) -> str:
    """The first sub-folder, behind that of the split; "" without one."""
    parts = row.parts[1 if has_splits else 0 : -1]
    return parts[0] if parts else ""
