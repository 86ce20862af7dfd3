"""Splits of data by the names that people give them: one rule for every source.

Train and test are what they are called; of train and val alone val is the test split, and beside
a test split val is held out: nothing is trained or tested on it. Without names that tell, about a
tenth of the rows is the test split, chosen by a hash of names, so that a row stays where it is
when others come or go.
"""

import difflib
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from aigc.artifact.latents import integers
from aigc.data import Split
from aigc.data.files import left_out
from aigc.data.once import uncollected
from aigc.data.survey import LeftOut

Part = Literal["train", "test", "val"]

TRAIN, TEST, UNUSED = 0, 1, 2
"""Part of each row, as arrays have it."""
WORDS: dict[str, Part] = {
    **dict.fromkeys(("train", "training", "trainval"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("eval", "evaluation", "holdout", "heldout"), "val"),
}
_WORD = rf"({'|'.join(sorted(WORDS, key=len, reverse=True))})(?:[-_ ]?(?:set|split|data))?"
_FOLDER = re.compile(_WORD, re.IGNORECASE)
_TOKEN = re.compile(rf"(?:^|[-_. ]){_WORD}(?=$|[-_. ]|\d)", re.IGNORECASE)
_NEAR = 0.8
"""Ratio of difflib above which a name may be a split's that was mistyped."""


def part_of(name: str) -> Part | None:
    """The part that a folder, a key or a split of this whole name is; None for any other name."""
    found = _FOLDER.fullmatch(name)
    return WORDS[found[1].lower()] if found else None


def part_within(name: str) -> Part | None:
    """The part that a word within the name of a file tells: `wiki.train`, `cats-val-00001`."""
    word = _word_within(name)
    return WORDS[word.lower()] if word else None


def _word_within(name: str) -> str:
    found = _TOKEN.search(name)
    return found[1] if found else ""


def divided(key: str) -> tuple[Part | None, str]:
    """`train_images` -> train and images: the part that a word of a key tells, and the rest."""
    found = _TOKEN.search(key)
    if found is None:
        return None, key
    return WORDS[found[1].lower()], (key[: found.start()] + key[found.end() :]).strip("-_. ")


def looks_like_a_split(name: str) -> bool:
    """Tell if a name is a split's, or nearly: `Train2`, `trian`."""
    letters = re.sub(r"[^a-z]", "", name.lower())
    return letters in WORDS or any(
        difflib.SequenceMatcher(None, letters, word).ratio() > _NEAR
        or (letters[:1] == word[0] and sorted(letters) == sorted(word))
        for word in WORDS
        if len(word) > 3
    )


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Assignment of a data set's files, arrays or tables to splits, and the names of the splits."""

    parts: tuple[Part | None, ...]
    """Split of each; None for one that is beside the splits. All None where no names tell."""
    rests: tuple[str, ...]
    """Its name without the folder of its split."""
    spelled: Mapping[Part, str]
    """Name of each part in the data; empty where no names tell."""
    notes: tuple[str, ...] = ()
    dropped: tuple[int, ...] = ()
    """Parts of a path that rests are without."""

    def rest_of(self, name: str) -> str:
        """Another name, of the same layout, without the folder of its split."""
        return _without(tuple(name.split("/")), self.dropped)

    @property
    def test(self) -> Part | None:
        """The part that is the test split; None if rows are held out of the others."""
        return next((part for part in ("test", "val") if part in self.spelled), None)

    @property
    def named(self) -> bool:
        """True if every row's split has a name; else a tenth is held out."""
        return self.test is not None

    def code(self, index: int) -> int | None:
        """TRAIN, TEST or UNUSED by name; None for what is beside the splits, or is to be drawn."""
        part = self.parts[index]
        if part is None or not self.named:
            return None
        return TRAIN if part == "train" else TEST if part == self.test else UNUSED

    def used(self, index: int) -> bool:
        """Tell if one of them is in any split, by its name or by a draw."""
        return not self.spelled or self.parts[index] is not None

    def name_of(self, code: int) -> str:
        """Name of TRAIN, TEST or UNUSED in the data."""
        part: Part | None = "train" if code == TRAIN else self.test if code == TEST else "val"
        return self.spelled.get(part, part) if part else "held out"

    def counts(self, codes: NDArray[np.int8]) -> dict[str, int]:
        """Rows of every split, by the name it has in the data."""
        found = np.bincount(codes, minlength=3)
        return {
            self.name_of(code): int(found[code])
            for code in (TRAIN, TEST, UNUSED)
            if found[code] or code != UNUSED
        }

    def beside(self, names: Sequence[str]) -> tuple[LeftOut, ...]:
        """Names that are in no split."""
        if not self.spelled:
            return ()
        gone = [name for index, name in enumerate(names) if not self.used(index)]
        spellings = ", ".join(self.spelled.values())
        return (left_out(f"files beside those of the splits ({spellings})", gone),) if gone else ()


@uncollected()
def of_folders(names: Sequence[str], where: str) -> Splits:
    """Splits of files by their folders: `train/cat/1.png`, `cat/train/1.png`.

    A lone folder `train` is no class: a tenth of it is held out. Raises ValueError for two folders
    of one split, and for splits without one to train on.
    """
    paths = [tuple(name.split("/")) for name in names]
    tops = dict.fromkeys(path[0] for path in paths if len(path) > 1)
    tops = {top: part_of(top) for top in tops}
    found = _spelled({top: part for top, part in tops.items() if part}, where)
    others = [top for top, part in tops.items() if part is None]
    if "train" in found and (len(found) > 1 or not others):
        return _split_by(paths, 0, found)
    if not found and (dated := _dated(paths, [*tops])):
        return dated
    if found and not others and "train" not in found:
        name = next(iter(found.values()))
        raise ValueError(
            f"{where} holds {' and '.join(sorted(found.values()))}, but no folder train; add one,"
            f" or set --data.path {where.rstrip('/')}/{name} to train on it"
        )
    if len(tops) == 1 and all(len(path) > 1 for path in paths):
        [top] = tops
        inner = of_folders([name.partition("/")[2] for name in names], f"{where}/{top}")
        if inner.spelled:  # a folder around the splits is no class
            return replace(inner, dropped=(0, *(depth + 1 for depth in inner.dropped)))
    below = {top: set[str]() for top in tops}
    for path in paths:
        if len(path) > 1:
            below[path[0]].add(path[1] if len(path) > 2 else "")
    parts = {name: part for inner in below.values() for name in inner if (part := part_of(name))}
    if "train" in parts.values() and len({*parts.values()}) > 1:
        if all(len(path) > 1 for path in paths) and set().union(*below.values()) <= parts.keys():
            return _split_by(paths, 1, _spelled(parts, where))
        notes: tuple[str, ...] = (
            "folders of splits lie within some folders, but not in all: they are not heeded",
        )
    else:
        notes = ()
    odd = [top for top in sorted(tops) if looks_like_a_split(top)]
    notes += tuple(f"folder {top} is taken as a class, though it looks like a split" for top in odd)
    return Splits(parts=(None,) * len(names), rests=tuple(names), spelled={}, notes=notes)


def _dated(paths: Sequence[tuple[str, ...]], tops: Sequence[str]) -> Splits | None:
    """Splits by folders such as `train2017` and `val2017`; None unless there are train and another.

    One folder `train1` is a class, as are `train1` and `train2`.
    """
    part_by_folder = [(top, part_of(re.sub(r"[-_ ]?\d+$", "", top))) for top in sorted(tops)]
    spelled = {part: top for top, part in part_by_folder if part is not None}
    if (
        "train" not in spelled
        or len(spelled) < 2
        or len(spelled) < sum(p is not None for _, p in part_by_folder)
    ):
        return None
    parts = {top: part for part, top in spelled.items()}
    return Splits(
        parts=tuple(parts.get(path[0]) if len(path) > 1 else None for path in paths),
        rests=tuple(_without(path, (0,)) for path in paths),
        spelled=spelled,
        notes=(f"folders {' and '.join(sorted(parts))} are splits, not classes, by their names",),
        dropped=(0,),
    )


def of_files(names: Sequence[str], *, exact_folders: bool = False) -> Splits:
    """Splits of files by a word of their names: `train-00001.tar`, `val/1.tar`, `wiki.test.txt`.

    They tell if there are such of train and of another part, or if all are of train. With
    `exact_folders` a folder tells only if that is its whole name.
    """
    parts: list[Part | None] = []
    rests: list[str] = []
    spelled: dict[Part, str] = {}
    for name in names:
        path = PurePosixPath(name)
        kept = list(path.parts)
        part: Part | None = None
        for number, folder in enumerate(path.parts[:-1]):
            part = part_of(folder) if exact_folders else part_within(folder)
            if part is not None:
                if part_of(folder):
                    del kept[number]
                spelled.setdefault(part, folder if part_of(folder) else _word_within(folder))
                break
        if part is None:
            part = part_within(path.stem)
            if part is not None:
                spelled.setdefault(part, _word_within(path.stem))
        parts.append(part)
        rests.append("/".join(kept))
    if "train" in spelled and (len(spelled) > 1 or None not in parts):
        return Splits(parts=tuple(parts), rests=tuple(rests), spelled=spelled)
    notes = [
        f"{name} looks like a split, but is none: there is no other beside it"
        for name, part in zip(names, parts, strict=True)
        if part is not None and len(names) > 1
    ]
    if len(notes) > 3:
        notes = [f"{notes[0]}; nor do the names of {len(notes) - 1} more tell"]
    return Splits(parts=(None,) * len(names), rests=tuple(names), spelled={}, notes=tuple(notes))


def of_names(names: Sequence[str], where: str) -> Splits:
    """Splits of a data set that names them itself.

    Raises ValueError for two names of one split, and without one to train on.
    """
    parts = {name: part_of(name) for name in names}
    spelled = _spelled({name: part for name, part in parts.items() if part}, where)
    if "train" not in spelled:
        raise ValueError(f"{where} has no split train, it has: {', '.join(names)}")
    return Splits(parts=tuple(parts[n] for n in names), rests=tuple(names), spelled=spelled)


def _split_by(paths: Sequence[tuple[str, ...]], depth: int, spelled: dict[Part, str]) -> Splits:
    """The part of a path at a depth is its split."""
    return Splits(
        parts=tuple(part_of(path[depth]) if len(path) > depth + 1 else None for path in paths),
        rests=tuple(_without(path, (depth,)) for path in paths),
        spelled=spelled,
        dropped=(depth,),
    )


def _without(path: tuple[str, ...], dropped: tuple[int, ...]) -> str:
    return "/".join(part for depth, part in enumerate(path) if depth not in dropped)


def _spelled(found: Mapping[str, Part], where: str) -> dict[Part, str]:
    """The name of each part. Raises ValueError where two names are of one."""
    spelled: dict[Part, str] = {}
    for name in sorted(found):
        other = spelled.setdefault(found[name], name)
        if other != name:
            raise ValueError(
                f"{where} holds {other} and {name}, which are one split by their names; rename one,"
                " or put the rows of both into one"
            )
    return spelled


def codes_of(splits: Splits, names: Sequence[str]) -> NDArray[np.int8]:
    """TRAIN, TEST or UNUSED of files of one row each, all in a split: (N,) int8."""
    if not splits.named:
        held = np.fromiter(map(name_held_out, names), np.bool_, len(names))
        return np.where(held, np.int8(TEST), np.int8(TRAIN))
    codes = (splits.code(index) for index in range(len(names)))
    drawn = (
        (TEST if name_held_out(name) else TRAIN) if code is None else code
        for code, name in zip(codes, names, strict=True)
    )
    return np.fromiter(drawn, np.int8, len(names))


def name_held_out(name: str) -> bool:
    """Tell if the hash of a name puts it into the test split: about a tenth."""
    content = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(content[:8], "little") % 10 == 0


def held_out(name: str, num_rows: int) -> NDArray[np.bool_]:
    """Mask of the rows called `name` that are its test split: (num_rows,), about a tenth.

    For data without a split of its own. A row stays where it is when others are added behind it.
    """
    raw = integers(0, f"test split/{name}", [0], num_rows)[0]
    tenth = (raw >> np.uint64(32)) * np.uint64(10) >> np.uint64(32)
    return np.asarray(tenth == 0)


def rows_of(codes: NDArray[np.int8], split: Split) -> NDArray[np.int64]:
    """Numbers of the rows in a split, ascending: (n,)."""
    return np.flatnonzero(codes == (TRAIN if split == "train" else TEST))
