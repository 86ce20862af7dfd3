"""Guess the source of a data set from the names of its files."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain

from aigc.artifact.audio_files import SUFFIXES as SOUNDS
from aigc.data.files import NOTHING, walked
from aigc.data.once import uncollected
from aigc.data.pictures import SUFFIXES as PICTURES

KINDS = {
    "folder": ("pictures", PICTURES),
    "audio": ("sounds", SOUNDS),
    "text": ("texts", (".txt",)),
    "parquet": ("parquet shards", (".parquet",)),
    "webdataset": ("tar shards", (".tar",)),
    "npz": ("files of numpy arrays", (".npz", ".npy")),
    "hf": ("Arrow files", (".arrow",)),
    "idx": ("IDX files", ()),
}
"""Source -> what it reads, and the suffixes of that."""
_KIND = {suffix: kind for kind, (_, suffixes) in KINDS.items() for suffix in suffixes}
PARTS = ("folder", "audio", "text")
"""Sources whose files may be parts of the rows of source paired."""
IDX = re.compile(r"-idx\d-ubyte(\.gz)?$")
TEXTS_BESIDE = 0.1
"""Texts that are fewer than this share of the other files are notes about them, not rows."""
PAIRED = 0.5
"""Share of the names of the rarer kind from which files that differ in their suffix alone are rows
of several parts."""


@dataclass(frozen=True)
class Guess:
    """A source and the reason for it."""

    source: str
    because: str


@dataclass
class _Found:
    """Names below a path, counted by the source that reads them."""

    counts: Counter[str] = field(default_factory=Counter)
    suffixes: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    others: Counter[str] = field(default_factory=Counter)
    """Suffixes that no source reads."""

    def add(self, name: str) -> None:
        # Not by pathlib, which takes ten times as long: there may be millions.
        base = name.rpartition("/")[2]
        stem, dot, ending = base.rpartition(".")
        suffix = f".{ending.lower()}" if stem and dot else ""
        kind = _KIND.get(suffix) or ("idx" if IDX.search(base.lower()) else "")
        if not kind:
            self.others[suffix or base] += 1
            return
        self.counts[kind] += 1
        self.suffixes[kind][suffix or "idx-ubyte"] += 1

    def said(self, kind: str) -> str:
        """A count in words: `3,781 pictures (.png)`."""
        suffixes = ", ".join(suffix for suffix, _ in self.suffixes[kind].most_common(3))
        return f"{self.counts[kind]:,} {KINDS[kind][0]} ({suffixes})"


def guess(path: str) -> Guess:
    """The source that reads what is at a path.

    Raises ValueError where there is nothing that any source reads, or where more than one could be
    meant: it names them.
    """
    return decide(path, names(path))


def names(path: str) -> Iterator[str]:
    """Names of all files below a path, relative to it, or of the one file. Hidden ones and those
    that systems leave are passed over, links are followed.

    Raises ValueError where there is nothing at that path, or it cannot be listed.
    """
    walk = walked(path)
    if walk.missing:
        why = "" if walk.missing in NOTHING else f" that can be read, {walk.missing}"
        raise ValueError(
            f"there is nothing at {path!r}{why}; give the folder, file or URI of the data"
        )
    return chain((file.name for file in chain(walk.files, walk.broken)), walk.strange)


@uncollected()
def decide(path: str, found_names: Iterable[str]) -> Guess:
    """The source that reads files of these names. Raises ValueError as guess() does."""
    found, known = _Found(), list(found_names)
    for name in known:
        found.add(name)
    if not found.counts:
        there = ", ".join(f"{count:,} {suffix}" for suffix, count in found.others.most_common(5))
        raise ValueError(
            f"{path!r} holds nothing that is read: {there or 'no files'}; what is read are"
            f" {', '.join(what for what, _ in KINDS.values())}"
        )
    kinds = [kind for kind in KINDS if found.counts[kind]]
    pair = _paired(known) if sum(found.counts[kind] > 0 for kind in PARTS) > 1 else 0
    if pair and set(kinds) <= set(PARTS):
        names_of = " and ".join(found.said(kind) for kind in kinds)
        return Guess("paired", f"{names_of}, {pair:,} of them with the same names")
    beside = ""
    others = sum(count for kind, count in found.counts.items() if kind != "text")
    if "text" in kinds and others and found.counts["text"] < max(6, TEXTS_BESIDE * others):
        kinds.remove("text")
        beside = f"; {found.said('text')} beside them are no rows"
    if len(kinds) > 1:
        choices = " or ".join(f"`aigc data {kind} {path}`" for kind in kinds)
        raise ValueError(
            f"{path!r} holds {' and '.join(found.said(kind) for kind in kinds)}, so more than one"
            f" source could be meant: say {choices}, or give a folder of one of them"
        )
    return Guess(kinds[0], f"{found.said(kinds[0])}{beside}")


def _paired(names: Iterable[str]) -> int:
    """Number of names shared by files of two kinds; 0 if too few to be rows."""
    by_kind: dict[str, set[str]] = {kind: set() for kind in PARTS}
    for name in names:
        stem, dot, ending = name.rpartition(".")
        if (kind := _KIND.get(f"{dot}{ending.lower()}", "")) in by_kind:
            by_kind[kind].add(stem)
    present = [stems for stems in by_kind.values() if stems]
    best = 0
    for number, one in enumerate(present):
        for other in present[number + 1 :]:
            shared = len(one & other)
            if shared >= PAIRED * min(len(one), len(other)):
                best = max(best, shared)
    return best
