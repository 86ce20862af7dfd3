"""Five data sets as people have them, and what `aigc data` says of them in docs/training.md:
`python -m tests.data.found` writes it there again.
"""

import contextlib
import io
import json
import os
import re
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from aigc.artifact import audio_files
from tests.documented import ROOT

DOCUMENT = ROOT / "docs" / "training.md"
BEGIN, END = "<!-- begin: tests/data/found.py -->\n", "<!-- end -->\n"
SYNSETS = ("n01440764", "n02099601", "n03028079")


def photo(number: int, width: int = 50, height: int = 40, mode: str = "RGB") -> Image.Image:
    """A smooth picture, another one for each number."""
    random = np.random.default_rng(number)
    small = Image.fromarray(random.integers(0, 256, (4, 5, 3), np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def encoded(picture: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def imagenet(folder: Path) -> None:
    """`train` and `val`, a folder per synset; one JPEG is a PNG, one for printing, and one picture
    is in both splits, as in the original."""
    for label, synset in enumerate(SYNSETS):
        for number in range(12):
            name = f"train/{synset}/{synset}_{number}.JPEG"
            picture = photo(100 * label + number, 50 + 3 * (number % 4), 38)
            if (label, number) == (1, 3):
                put(folder / name, encoded(picture, "PNG"))
            elif (label, number) == (2, 5):
                put(folder / name, encoded(picture.convert("CMYK"), "JPEG"))
            else:
                put(folder / name, encoded(picture, "JPEG"))
        for number in range(4):
            place = folder / "val" / synset / f"ILSVRC2012_val_{4 * label + number:08}.JPEG"
            put(place, encoded(photo(1000 + 100 * label + number), "JPEG"))
    copied = folder / "train" / SYNSETS[0] / f"{SYNSETS[0]}_7.JPEG"
    put(folder / "val" / SYNSETS[0] / "ILSVRC2012_val_00000003.JPEG", copied.read_bytes())
    put(folder / "LOC_synset_mapping.txt", "".join(f"{s} a name\n" for s in SYNSETS).encode())


def coco(folder: Path) -> None:
    """A webdataset: a photo, the mask of what is in it, and a JSON with its label."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, shards, rows in (("train", 2, 10), ("val", 1, 6)):
        for shard in range(shards):
            with tarfile.open(folder / f"{split}-{shard:06}.tar", "w") as file:
                for row in range(rows):
                    number = shard * rows + row + (500 if split == "val" else 0)
                    facts = {"label": number % 3, "caption": f"photo {number}"}
                    members = {
                        "jpg": encoded(photo(2000 + number, 64, 48), "JPEG"),
                        "seg.png": encoded(photo(4000 + number, 64, 48, "L"), "PNG"),
                        "json": json.dumps(facts).encode(),
                    }
                    for suffix, content in members.items():
                        member = tarfile.TarInfo(f"{number:012}.{suffix}")
                        member.size = len(content)
                        file.addfile(member, io.BytesIO(content))


def pets(folder: Path) -> None:
    """Parquet as Hugging Face writes it, its classes named in the schema; one has no rows."""
    names = ["abyssinian", "bengal", "birman", "sphynx"]
    features = {
        "image": {"_type": "Image"},
        "label": {"_type": "ClassLabel", "names": names},
    }
    schema = pa.schema(
        [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", "int64")],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    for split, start, rows in (("train", 0, 24), ("validation", 300, 6)):
        contents = [
            {"bytes": encoded(photo(start + row, 32, 32), "PNG"), "path": f"{row}.png"}
            for row in range(rows)
        ]
        labels = [row % 3 for row in range(rows)]
        path = folder / "data" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"image": contents, "label": labels}, schema), path)


def speech_commands(folder: Path) -> None:
    """Words of a second, lists of what is held out, and noise that is no word."""
    listed: dict[str, list[str]] = {"testing": [], "validation": []}
    for label, word in enumerate(("no", "up", "yes")):
        for number in range(12):
            name = f"{word}/{number:08x}_nohash_0.wav"
            hz = 200 + 40 * label + 7 * number
            wave = np.sin(np.arange(16_000 - 500 * (number % 3)) * (2 * np.pi * hz / 16_000))
            content = audio_files.wav(np.rint(20_000 * wave).astype(np.int16)[:, None], 16_000)
            put(folder / name, content)
            if number < 4:
                listed["testing" if number < 2 else "validation"].append(name)
    random = np.random.default_rng(0).normal(0, 2000, 32_000).astype(np.int16)
    put(folder / "_background_noise_" / "pink_noise.wav", audio_files.wav(random[:, None], 16_000))
    for name, entries in listed.items():
        put(folder / f"{name}_list.txt", "".join(f"{entry}\n" for entry in entries).encode())
    put(folder / "README.md", b"Speech Commands\n")


def share(folder: Path) -> None:
    """Photos on a NAS: what its system leaves, other kinds of files, a copy, and one cut off."""
    for label, name in enumerate(("Rome 2019", "Zoo")):
        for number in range(10):
            picture = photo(6000 + 100 * label + number, 60, 44)
            options = {"exif": _turned()} if number == 4 else {}
            place = folder / name / f"IMG_{100 * label + number:04}.jpg"
            put(place, encoded(picture, "JPEG", **options))
            thumbnail = folder / name / "@eaDir" / place.name / "SYNOPHOTO_THUMB_M.jpg"
            put(thumbnail, encoded(picture.resize((12, 9)), "JPEG"))
        put(folder / name / "Thumbs.db", b"\xd0\xcf\x11\xe0")
    zoo = folder / "Zoo"
    put(zoo / "IMG_0101 (1).jpg", (zoo / "IMG_0101.jpg").read_bytes())
    put(zoo / "IMG_0110.png", encoded(photo(6900, 64, 64, "RGBA"), "PNG"))
    put(zoo / "IMG_0111.jpg", encoded(photo(6901, 60, 44), "JPEG")[:200])
    put(zoo / "IMG_0112.heic", b"\0\0\0\x18ftypheic")
    put(zoo / "MOV_0113.mp4", b"\0\0\0\x18ftypmp42")
    put(folder / ".DS_Store", b"\0\0\0\1Bud1")
    put(zoo / "._IMG_0100.jpg", b"\0\5\x16\7")
    put(folder / "#recycle" / "IMG_0042.jpg", encoded(photo(6902), "JPEG"))


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


SETS: dict[str, tuple[Callable[[Path], None], str, list[str]]] = {
    "imagenet": (imagenet, "An ImageNet-like tree", []),
    "coco": (coco, "A webdataset of photos and masks", ["--member", "jpg"]),
    "pets": (pets, "Parquet of Hugging Face", []),
    "speech_commands": (speech_commands, "Speech Commands", []),
    "share": (share, "Photos on a NAS", []),
}
"""By folder: its builder, its title, and the flags that it needs."""


def said(name: str, folder: Path) -> str:
    """Stdout of `aigc data NAME` run in `folder`, its time set to 0."""
    from aigc.commands.inspect_data import command

    make, _, flags = SETS[name]
    if not (folder / name).exists():
        make(folder / name)
    printed = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        assert command([name, *flags]) == 0
    return re.sub(r"index +\d+\.\d s", "index        0.0 s", printed.getvalue())


def document(folder: Path) -> str:
    """The part of docs/training.md that shows them."""
    return "\n".join(_blocks(folder))


def _blocks(folder: Path) -> Iterator[str]:
    for name, (_, title, flags) in SETS.items():
        yield f"{title}:\n\n```\n$ {' '.join(['aigc data', name, *flags])}"
        yield f"{said(name, folder).rstrip()}\n```\n"


def main() -> None:
    """Write docs/training.md again."""
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = str(Path(folder) / "cache")
        shown = document(Path(folder))
    DOCUMENT.write_text(f"{before}{BEGIN}{shown}{END}{after}")


if __name__ == "__main__":
    main()
