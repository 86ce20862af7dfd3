"""Emoji pictures as folders of training and test pictures whose variants are never on both sides.

    python -m benchmarks.emoji64 build/emoji64

writes 3,781 RGB pictures of 64 x 64 on white: `all`, a folder per category below `train` and
`test`, and `people`, the subcategories person and person-role. They are Noto Emoji (Apache-2.0) as
the npm package emoji-datasource-google (MIT) has them, read from ../shared/data/emoji64 or fetched
with npm.
"""

import csv
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections import defaultdict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

SHARED = Path(__file__).parents[2] / "shared/data/emoji64"
"""Pictures by category, and names.csv with file, name, category and subcategory."""
PACKAGE = "emoji-datasource-google@16.0.0"
PACKAGE_SHA256 = "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438"
FETCH_LIMIT_S = 600.0
PEOPLE = ("person", "person-role")
TEST_SHARE, TEST_SHARE_OF_PEOPLE = 0.12, 0.2
"""Share of the groups that are test pictures; of people more, since they are few."""
_TONE = re.compile(r"-(1f3f[b-f]|fe0f)")
_VARIANT = re.compile(r"\b(wo)?m[ae]n\b|\bperson\b|\bfacing right\b")
"""Words by which names of variants differ."""


@dataclass(frozen=True)
class Emoji:
    """One picture; `file` is the name of its file, which are its code points."""

    file: str
    name: str
    category: str
    subcategory: str
    picture: Image.Image


def write(folder: Path) -> None:
    """Write `all` and `people` below a folder, at once and whole. Raises ValueError if the pictures
    are neither shared nor can be fetched."""
    emojis = list(shared() if SHARED.is_dir() else fetched())
    group = groups(emojis)
    people = {group[one.file] for one in emojis if one.subcategory in PEOPLE}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as begun:
        whole = Path(begun) / folder.name
        for one in emojis:
            own = group[one.file]
            split = _split(own, TEST_SHARE_OF_PEOPLE if own in people else TEST_SHARE)
            _save(one, whole / "all" / split, one.category)
            if one.subcategory in PEOPLE:
                _save(one, whole / "people" / split, one.subcategory)
        shutil.rmtree(folder, ignore_errors=True)
        whole.rename(folder)


def shared() -> Iterator[Emoji]:
    """The pictures of SHARED."""
    with (SHARED / "names.csv").open(newline="") as names:
        for row in csv.DictReader(names):
            picture = on_white(Image.open(SHARED / row["file"]))
            kind = row["category"], row["subcategory"]
            yield Emoji(Path(row["file"]).name, row["name"], *kind, picture)


def fetched() -> Iterator[Emoji]:
    """The pictures of PACKAGE, 74 MB from npm's registry.

    Raises ValueError without npm, if it fails, or if the package is another.
    """
    if shutil.which("npm") is None:
        raise ValueError("the emoji pictures come from npm's registry; on Debian: apt install npm")
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            ["npm", "pack", "--silent", PACKAGE],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=FETCH_LIMIT_S,
        )
        if done.returncode:
            raise ValueError(f"npm pack {PACKAGE} failed: {done.stderr.strip()[-500:]}")
        packed = next(Path(folder).glob("*.tgz")).read_bytes()
    if (digest := hashlib.sha256(packed).hexdigest()) != PACKAGE_SHA256:
        raise ValueError(f"{PACKAGE} has sha256 {digest}, {PACKAGE_SHA256} is expected")
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        files = {
            member.name.removeprefix("package/"): tar.extractfile(member).read()  # type: ignore[union-attr]
            for member in tar
            if member.name == "package/emoji.json" or "/img/google/64/" in member.name
        }
    for entry in json.loads(files["emoji.json"]):
        for variant in (entry, *entry.get("skin_variations", {}).values()):
            if variant["has_img_google"] and entry["category"] != "Component":
                picture = on_white(
                    Image.open(io.BytesIO(files[f"img/google/64/{variant['image']}"]))
                )
                name = (entry["name"] or entry["short_name"]).lower()
                kind = entry["category"], entry["subcategory"]
                yield Emoji(variant["image"], name, *kind, picture)


def on_white(picture: Image.Image) -> Image.Image:
    """A picture as RGB, its transparent parts white."""
    picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def groups(emojis: list[Emoji]) -> dict[str, str]:
    """Group of each file, named by the first of its files: variants that share a name but for sex,
    a code point without skin tones, or all pixels, also by way of other variants."""
    parent = {one.file: one.file for one in emojis}

    def root(file: str) -> str:
        while parent[file] != file:
            file = parent[file]
        return file

    first: dict[Hashable, str] = {}
    for one in emojis:
        code = _TONE.sub("", Path(one.file).stem)
        name = _VARIANT.sub("", one.name).strip() or one.name
        pixels = hashlib.sha256(one.picture.tobytes()).digest()
        for fact in (("name", name), ("code", code), ("pixels", pixels)):
            parent[root(one.file)] = root(first.setdefault(fact, one.file))
    members = defaultdict(list)
    for file in parent:
        members[root(file)].append(file)
    return {file: min(files) for files in members.values() for file in files}


def _split(group: str, share: float) -> str:
    place = int(hashlib.sha256(group.encode()).hexdigest()[:8], 16) / 2**32
    return "test" if place < share else "train"


def _save(emoji: Emoji, split: Path, label: str) -> None:
    folder = split / re.sub(r"\W+", "-", label).lower()
    folder.mkdir(parents=True, exist_ok=True)
    emoji.picture.save(folder / emoji.file)


if __name__ == "__main__":
    try:
        write(Path(sys.argv[1]))
    except ValueError as error:
        sys.exit(str(error))
