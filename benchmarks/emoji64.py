"""Emoji pictures as folders of training and test pictures whose variants are never on both sides.

    python -m benchmarks.emoji64 build/emoji64

writes RGB pictures on white: `all`, a folder per category below `train` and `test`, and `people`,
the subcategories person and person-role. The files are those of ../shared/data/emoji64, whose
README names their licences.
"""

import csv
import hashlib
import re
import sys
from collections import defaultdict
from collections.abc import Hashable
from pathlib import Path

from PIL import Image

SOURCE = Path(__file__).parents[2] / "shared/data/emoji64"
"""Pictures by category, and names.csv with file, name, category and subcategory."""
PEOPLE = ("person", "person-role")
TEST_SHARE, TEST_SHARE_OF_PEOPLE = 0.12, 0.2
"""Share of the groups that are test pictures; of people more, since they are few."""
_TONE = re.compile(r"-(1f3f[b-f]|fe0f)")
_VARIANT = re.compile(r"\b(wo)?m[ae]n\b|\bperson\b|\bfacing right\b")
"""Words by which names of variants differ."""


def write(folder: Path, source: Path = SOURCE) -> None:
    """Write `all` and `people` below a folder. Raises FileNotFoundError without the pictures."""
    with (source / "names.csv").open(newline="") as names:
        rows = list(csv.DictReader(names))
    pictures = {row["file"]: on_white(source / row["file"]) for row in rows}
    group = groups(rows, pictures)
    people = {group[row["file"]] for row in rows if row["subcategory"] in PEOPLE}
    for row in rows:
        picture, name = pictures[row["file"]], Path(row["file"]).name
        own = group[row["file"]]
        split = _split(own, TEST_SHARE_OF_PEOPLE if own in people else TEST_SHARE)
        _save(picture, folder / "all" / split, row["category"], name)
        if row["subcategory"] in PEOPLE:
            _save(picture, folder / "people" / split, row["subcategory"], name)


def on_white(file: Path) -> Image.Image:
    """A picture as RGB, its transparent parts white."""
    picture = Image.open(file).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def groups(rows: list[dict[str, str]], pictures: dict[str, Image.Image]) -> dict[str, str]:
    """Group of each file, named by the first of its files: variants that share a name but for sex,
    a code point without skin tones, or all pixels, also by way of other variants."""
    parent = {row["file"]: row["file"] for row in rows}

    def root(file: str) -> str:
        while parent[file] != file:
            file = parent[file]
        return file

    first: dict[Hashable, str] = {}
    for row in rows:
        file = row["file"]
        code = _TONE.sub("", Path(file).stem)
        pixels = hashlib.sha256(pictures[file].tobytes()).digest()
        name = _VARIANT.sub("", row["name"]).strip() or row["name"]
        for fact in (("name", name), ("code", code), ("pixels", pixels)):
            parent[root(file)] = root(first.setdefault(fact, file))
    members = defaultdict(list)
    for file in parent:
        members[root(file)].append(file)
    return {file: min(files) for files in members.values() for file in files}


def _split(group: str, share: float) -> str:
    place = int(hashlib.sha256(group.encode()).hexdigest()[:8], 16) / 2**32
    return "test" if place < share else "train"


def _save(picture: Image.Image, split: Path, label: str, name: str) -> None:
    folder = split / re.sub(r"\W+", "-", label).lower()
    folder.mkdir(parents=True, exist_ok=True)
    picture.save(folder / name)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
