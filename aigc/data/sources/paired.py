"""Rows of several things that belong together: `0017.png`, `0017.txt`, `0017.wav`.

A row is a record: a structured array of shape () with a field per modality, and for each a field
`mask/<modality>` that says whether the row has it. What it has not is zeros.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc.artifact.audio_files import SUFFIXES as SOUNDS
from aigc.artifact.preprocessing import TEXT
from aigc.artifact.vocabulary import cleaned
from aigc.config import DataConfig
from aigc.data import CorruptRow, Shapes, Split, permutation, scaled
from aigc.data.content import File, OutOfReach, fetch, sha256, text_of
from aigc.data.files import left_out, listing
from aigc.data.lines import characters
from aigc.data.pictures import SUFFIXES as PICTURES
from aigc.data.pictures import decode
from aigc.data.sounds import check_shape
from aigc.data.sounds import decode as decode_sound
from aigc.data.splits import of_folders
from aigc.data.survey import Survey
from aigc.data.tree import tree

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
    """Hash of the parts."""
    survey: Survey = field(default_factory=Survey)

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
    unreadable: Mapping[int, str]
    """Why there are no tokens of a text."""
    rate_hz: int

    def __call__(self, modality: str, number: int) -> NDArray[Any]:
        if modality == "text":
            if number in self.unreadable:
                raise CorruptRow(self.unreadable[number])
            return self.tokens[number]
        file, shape = self.files[number], self.shapes[modality]
        try:
            content = fetch(file)
        except OutOfReach:
            raise
        except OSError as error:
            raise CorruptRow(f"{file.name} cannot be read: {error.strerror or error}") from error
        if modality == "image":
            return scaled(decode(content, shape, file.name))
        return decode_sound(content, shape, self.rate_hz, file.name)


def load(config: DataConfig, shapes: Shapes, split: Split, *, conditional: bool = True) -> Pairs:
    """Files below `config.path` that differ in their suffix alone are a row.

    A sub-folder is a class; folders `train`, `val` and `test`, by any of their names, are the
    splits, else about a tenth of the rows is the test split, chosen by a hash of the name. Of
    several pictures of a row `data.member` is the suffix of the one to take. Raises ValueError for
    texts that do not fit, for two files of one kind in a row, or a split without rows.
    """
    suffixes = {suffix: name for name in shapes for suffix in SUFFIXES[name]}
    listed = listing(config.path, tuple(suffixes), "paired")
    files = listed.files
    if "audio" in shapes:
        check_shape(shapes["audio"], "paired")
    rows, unchosen = _rows(files, suffixes, config)
    names = list(rows)
    splits = of_folders(names, config.path)
    chosen = tree(
        names,
        splits,
        listed,
        split,
        what="rows",
        each="every row",
        conditional=conditional,
        beside=(left_out("pictures with another suffix than data.member", unchosen),)
        if unchosen
        else (),
    )
    texts, unreadable = _texts(
        files, [rows[name] for index, name in enumerate(names) if splits.used(index)]
    )
    vocabulary = characters(["", *texts.values()])
    tokens = vocabulary.rows(list(texts.values()), shapes["text"][0]) if texts else ()
    taken = [rows[names[row]] for row in chosen.rows]
    used = [files[number] for row in taken for number in row.values()]
    return Pairs(
        name=PurePosixPath(config.path).name or "paired",
        shapes=shapes,
        read_part=_Files(
            files=files,
            shapes=shapes,
            tokens=dict(zip(texts, tokens, strict=True)),
            unreadable=unreadable,
            rate_hz=config.sample_rate_hz,
        ),
        parts={name: np.array([row.get(name, -1) for row in taken]) for name in shapes},
        labels=chosen.labels.indices,
        classes=chosen.labels.classes,
        vocabulary=vocabulary.pieces,
        sample_rate_hz=config.sample_rate_hz,
        sha256=sha256(used),
        survey=chosen.survey,
    )


def _rows(
    files: Sequence[File], suffixes: Mapping[str, str], config: DataConfig
) -> tuple[dict[str, dict[str, int]], list[str]]:
    """Number of the file of each modality, by name without suffix; and names of pictures with
    another suffix than `data.member`. Raises ValueError for two files of one modality in a row."""
    rows: dict[str, dict[str, int]] = {}
    unchosen = []
    member = f".{config.member.lower().lstrip('.')}"
    if config.member and member not in PICTURES:
        raise ValueError(f"data.member is {config.member!r}; pictures are {', '.join(PICTURES)}")
    for number, file in enumerate(files):
        name = PurePosixPath(file.name)
        modality, suffix = suffixes[name.suffix.lower()], name.suffix.lower()
        if config.member and modality == "image" and suffix != member:
            unchosen.append(file.name)
            continue
        row = rows.setdefault(name.with_suffix("").as_posix(), {})
        if modality in row:
            first = PurePosixPath(files[row[modality]].name).suffix.lower()
            chosen = modality == "image" and first != suffix
            cure = f"set --data.member {suffix[1:]}, or " if chosen else ""
            raise ValueError(
                f"{files[row[modality]].name} and {file.name} of {config.path} are both the"
                f" {modality} of one row; {cure}rename one, or take it away"
            )
        row[modality] = number
    return rows, unchosen


def _texts(
    files: Sequence[File], rows: Sequence[Mapping[str, int]]
) -> tuple[dict[int, str], dict[int, str]]:
    """Texts of rows by the numbers of their files, and the reasons for unreadable ones."""
    texts, unreadable = {}, {}
    for row in rows:
        if "text" in row:
            try:
                texts[row["text"]] = cleaned(text_of(files[row["text"]]), TEXT)
            except ValueError as error:
                unreadable[row["text"]] = str(error)
    return texts, unreadable
