"""Files as people have them: links, litter, odd names, and caches that see what changed."""

import hashlib
import json
import os
import tarfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aigc import data
from aigc.artifact import audio_files
from aigc.config import DataConfig, ModelConfig
from aigc.data import CorruptRow
from aigc.data.cache import looked_up
from aigc.data.content import sha256
from aigc.data.files import is_system, listing
from aigc.data.sources import text
from tests.data.pictures import SHAPE, picture, pictures, png, tar, write
from tests.data.rows import PAIRED
from tests.data.sounds import tone

PLAIN = ModelConfig(shape=SHAPE)
PETS = ModelConfig(shape=SHAPE, num_classes=2)


def pets(folder: Path, names: tuple[str, ...] = ("cat", "dog"), count: int = 12) -> DataConfig:
    for place, name in enumerate(names):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            content = png(picture(100 * place + number))
            (folder / name / f"{number}.png").write_bytes(content)
    return DataConfig(source="folder", path=str(folder), memory_mb=0)


@pytest.fixture
def _settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of this moment count as old ones: a test cannot wait, and no call sets ctime."""
    monkeypatch.setattr("aigc.data.files.SETTLED_S", -1)


def test_listing_follows_links(tmp_path: Path) -> None:
    real = pets(tmp_path / "real")
    linked = tmp_path / "linked"
    (linked / "dog").mkdir(parents=True)
    (linked / "cat").symlink_to(tmp_path / "real" / "cat")
    for path in (tmp_path / "real" / "dog").iterdir():
        (linked / "dog" / path.name).symlink_to(path)
    source = data.load(replace(real, path=str(linked)), PETS)
    wanted = data.load(real, PETS)
    assert source.classes == wanted.classes == ("cat", "dog")
    assert source.fingerprint()["sha256"] == wanted.fingerprint()["sha256"]


def test_linked_split_folders_are_splits(tmp_path: Path) -> None:
    pets(tmp_path / "a", count=4)
    pets(tmp_path / "b", count=2)
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "train").symlink_to(tmp_path / "a")
    (tmp_path / "both" / "test").symlink_to(tmp_path / "b")
    config = DataConfig(source="folder", path=str(tmp_path / "both"))
    assert [len(data.load(config, PETS, split)) for split in ("train", "test")] == [8, 4]


@pytest.mark.parametrize("kind", ["npz", "parquet", "webdataset"])
def test_linked_shards_are_read(kind: str, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    config = write(kind, tmp_path / "real")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "inner").symlink_to(tmp_path / "real")
    moved = replace(config, path=str(tmp_path / "links"))
    model = ModelConfig(shape=SHAPE, num_classes=3)
    assert len(data.load(moved, model)) == len(data.load(config, model))


def test_link_to_a_parent_folder_is_noted_and_not_followed(tmp_path: Path) -> None:
    config = pets(tmp_path)
    (tmp_path / "cat" / "again").symlink_to(tmp_path)
    (tmp_path / "dog" / "itself").symlink_to(tmp_path / "dog" / "itself")
    source = data.load(config, PETS)
    assert "cat/again leads back to a folder above it and is not followed" in source.survey.notes
    assert sum(source.survey.splits.values()) == 24
    [lost] = source.survey.left_out
    assert (lost.reason, lost.first) == ("links that lead nowhere", ("dog/itself",))


def test_broken_links_are_corrupt_rows(tmp_path: Path) -> None:
    config = pets(tmp_path, ("cat",))
    for number in range(3):
        (tmp_path / "cat" / f"gone{number}.png").symlink_to("/nowhere/gone.png")
    source = data.load(config, ModelConfig(shape=SHAPE, num_classes=1))
    before = source.fingerprint()
    bad = []
    for row in range(len(source)):
        try:
            source.read(row)
        except CorruptRow as error:
            bad.append(str(error))
    assert 0 < len(bad) <= 3
    assert all("cannot be read: No such file" in reason for reason in bad)
    with pytest.raises(CorruptRow, match=r"gone.*\.png cannot be read: .*--data.on-error skip"):
        data.load(replace(config, memory_mb=9), PLAIN)
    held = data.load(replace(config, memory_mb=9, on_error="skip"), PLAIN)
    assert isinstance(held, data.Dataset)
    assert len(held.skipped) == len(bad)
    for number in range(3):
        (tmp_path / "cat" / f"gone{number}.png").unlink()
        (tmp_path / "cat" / f"gone{number}.png").write_bytes(png(picture(900 + number)))
    assert data.load(config, ModelConfig(shape=SHAPE, num_classes=1)).fingerprint() != before


@pytest.mark.parametrize(
    ("kind", "name"), [("webdataset", "train-9.tar"), ("parquet", "train-9.parquet")]
)
def test_broken_shard_link_stops_or_is_skipped(kind: str, name: str, tmp_path: Path) -> None:
    config = write(kind, tmp_path)
    (tmp_path / name).symlink_to("/nowhere/shard")
    model = ModelConfig(shape=SHAPE, num_classes=3)
    with pytest.raises(CorruptRow, match=rf"{name} is a link that leads nowhere.*on-error skip"):
        data.load(config, model)
    source = data.load(replace(config, on_error="skip"), model)
    assert len(source) == 13
    assert source.survey.left_out[0].first == (name,)


def test_missing_text_file_stops_or_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\nthree")
    (tmp_path / "b.txt").symlink_to("/nowhere/b.txt")
    config = DataConfig(source="text", path=str(tmp_path))
    with pytest.raises(CorruptRow, match=r"b\.txt cannot be read: .*--data.on-error skip"):
        text.load(config, (9,), "train")
    found = text.load(replace(config, on_error="skip"), (9,), "train")
    assert found.survey.left_out[0].first == ("b.txt",)


@pytest.mark.usefixtures("_settled")
def test_rewritten_linked_shard_is_read_anew(tmp_path: Path) -> None:
    tar(tmp_path / "real.tar", [(png(picture(n)), n % 2) for n in range(12)])
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        (tmp_path / "data" / f"{split}.tar").symlink_to(tmp_path / "real.tar")
    config = DataConfig(source="webdataset", path=str(tmp_path / "data"), memory_mb=0)
    before = data.load(config, PETS)
    tar(tmp_path / "real.tar", [(png(picture(n)), 1 - n % 2) for n in range(12)])
    after = data.load(config, PETS)
    assert [after.read(row)[1] for row in range(12)] == [
        1 - before.read(row)[1] for row in range(12)
    ]
    assert after.fingerprint() != before.fingerprint()


@pytest.mark.usefixtures("_settled")
@pytest.mark.parametrize("replaced", [False, True])
def test_fingerprint_covers_contents_behind_links(replaced: bool, tmp_path: Path) -> None:
    target = tmp_path / "target.png"
    Image.fromarray(picture(1)).save(target, "bmp")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.png").symlink_to(target)
    before = sha256(listing(str(tmp_path / "data"), (".png",), "folder").files)
    content = bytearray(target.read_bytes())
    content[-1] ^= 1
    time.sleep(0.02)  # clocks of file systems tick every 4 ms
    times = target.stat().st_mtime_ns
    if replaced:
        (tmp_path / "other").write_bytes(content)
        (tmp_path / "other").rename(target)
    else:
        target.write_bytes(content)
    os.utime(target, ns=(times, times))
    assert sha256(listing(str(tmp_path / "data"), (".png",), "folder").files) != before


def test_meaningless_mtimes_are_not_trusted(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"first")
    [young] = listing(str(tmp_path), (".png",), "folder").files
    assert not young.settled
    assert young.facts()[2] == hashlib.sha256(b"first").hexdigest()
    os.utime(path, (0, 0))
    [file] = listing(str(tmp_path), (".png",), "folder").files
    assert not file.settled


@pytest.mark.usefixtures("_settled")
def test_content_hashes_are_cached(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"first")
    files = listing(str(tmp_path), (".png",), "folder").files
    facts = [[file.name, *file.facts()] for file in files]
    assert looked_up("sha256", facts) is None
    known = sha256(files)
    assert looked_up("sha256", facts) == known


@pytest.mark.parametrize(
    "litter",
    [
        *("cat/@eaDir/1.png/SYNOPHOTO_THUMB_M.png", "__MACOSX/cat/._1.png", "cat/._2.png"),
        *("cat/.ipynb_checkpoints/3-checkpoint.png", "#recycle/old.png", "$RECYCLE.BIN/5.png"),
        *(".git/6.png", "cat/@Recycle/7.png", "lost+found/8.png", "cat/Thumbs.db", "desktop.ini"),
    ],
)
def test_system_files_are_skipped_and_counted(litter: str, tmp_path: Path) -> None:
    config = pets(tmp_path)
    (tmp_path / litter).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / litter).write_bytes(png(picture(500)))
    source = data.load(config, PETS)
    assert sum(source.survey.splits.values()) == 24
    [left] = source.survey.left_out
    assert (left.count, left.first) == (1, (litter,))
    assert left.reason == "files that a system keeps for itself, or hidden ones"


@pytest.mark.parametrize("kind", ["audio", "paired", "text", "npz", "parquet", "webdataset"])
def test_every_source_skips_system_files(kind: str, tmp_path: Path) -> None:
    for folder in ("@eaDir", "__MACOSX"):
        (tmp_path / folder).mkdir()
        for suffix in ("wav", "txt", "npz", "parquet", "tar"):
            (tmp_path / folder / f"thumb.{suffix}").write_bytes(b"litter")
    config = DataConfig(source=kind, path=str(tmp_path))
    if kind == "audio":
        for n in range(20):
            (tmp_path / f"{n}.wav").write_bytes(audio_files.wav(tone(200 + n, 64), 8000))
        source = data.load(config, ModelConfig(shape=(1, 64)))
    elif kind == "paired":
        for n in range(20):
            (tmp_path / f"{n}.txt").write_text("onetw")
        source = data.load(config, replace(PAIRED, num_classes=0, text=6))
    elif kind == "text":
        (tmp_path / "a.txt").write_text("one\ntwo\nthree")
        source = text.load(config, (9,), "train")
    else:
        model = ModelConfig(shape=SHAPE, num_classes=3)
        source = data.load(replace(write(kind, tmp_path), path=str(tmp_path)), model)
    told = {left.reason for left in source.survey.left_out}
    assert "files that a system keeps for itself, or hidden ones" in told


def test_tar_members_skip_system_files(tmp_path: Path) -> None:
    inner, outer = tmp_path / "in", tmp_path / "out"
    inner.mkdir()
    outer.mkdir()
    for name in ("0.png", "0.cls", "0.txt", "._0.png", "__MACOSX-0.png"):
        content = b"0" if name.endswith("cls") else png(picture(len(name)))
        (inner / name).write_bytes(content)
    with tarfile.open(outer / "train.tar", "w") as file:
        file.add(inner, "./")
    tar(outer / "test.tar", pictures("test"))
    config = DataConfig(source="webdataset", path=str(outer))
    source = data.load(config, PLAIN)
    assert len(source) == 2
    told = {left.reason: (left.count, left.first) for left in source.survey.left_out}
    assert told == {
        "members with a suffix that is not read (.txt)": (1, ("./0.txt",)),
        "members that a system keeps for itself, or hidden ones": (1, ("./._0.png",)),
    }


def test_names_with_two_underscores_are_data(tmp_path: Path) -> None:
    source = data.load(pets(tmp_path, ("cat", "__eel__")), PETS)
    assert source.classes == ("__eel__", "cat")
    assert "names that begin with __ are read as any other: __eel__" in source.survey.notes


def test_jpegs_of_any_extension_are_read(tmp_path: Path) -> None:
    names = ("a.jfif", "b.JPE", "c.pjpeg", "d.jpg")
    for name in names:
        Image.fromarray(picture(len(name))).save(tmp_path / name, "jpeg")
    for number in range(20):
        (tmp_path / f"{number}.png").write_bytes(png(picture(number)))
    source = data.load(DataConfig(source="folder", path=str(tmp_path)), PLAIN)
    assert sum(source.survey.splits.values()) == 24
    assert source.survey.left_out == ()


def test_other_kinds_of_files_are_counted_and_lost_classes_noted(
    tmp_path: Path,
) -> None:
    for name, suffix in (("up", "wav"), ("down", "mp3")):
        (tmp_path / name).mkdir()
        for number in range(12):
            wave = audio_files.wav(tone(200 + number, 64), 8000)
            (tmp_path / name / f"{number}.{suffix}").write_bytes(wave)
    config = DataConfig(source="audio", path=str(tmp_path))
    source = data.load(config, ModelConfig(shape=(1, 64), num_classes=1))
    [left] = source.survey.left_out
    assert (left.count, left.reason) == (12, "files with a suffix that is not read (.mp3)")
    assert left.first == ("down/0.mp3", "down/1.mp3", "down/10.mp3", "down/11.mp3", "down/2.mp3")
    assert (
        "folder down is no class: none of its 12 files is of a kind that is read (.mp3)"
        in source.survey.notes
    )


def test_folder_without_readable_files_is_described(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(b"x")
    config = DataConfig(source="folder", path=str(tmp_path))
    with pytest.raises(ValueError, match=r"holds 1 files with a suffix that is not read \(\.heic"):
        data.load(config, PLAIN)


@pytest.mark.parametrize("kind", ["folder", "audio", "text", "paired"])
def test_name_that_is_not_utf8_is_refused_with_the_fix(kind: str, tmp_path: Path) -> None:
    suffix = {"folder": b"png", "audio": b"wav"}.get(kind, b"txt")
    path = os.path.join(os.fsencode(tmp_path), b"caf\xe9." + suffix)  # noqa: PTH118
    with open(path, "wb") as file:  # noqa: PTH123
        file.write(b"x")
    config = DataConfig(source=kind, path=str(tmp_path))
    model = {"audio": ModelConfig(shape=(1, 64)), "paired": PAIRED}.get(kind, PLAIN)
    load: Callable[[], object] = (
        (lambda: text.load(config, (9,), "train"))
        if kind == "text"
        else lambda: data.load(config, model)
    )
    with pytest.raises(
        ValueError, match=r"caf\\xe9\.... is not UTF-8; rename it, .*convmv"
    ) as told:
        load()
    str(told.value).encode()  # can be printed


def test_double_colons_in_paths_are_read_or_refused(tmp_path: Path) -> None:
    config = pets(tmp_path / "run::1")
    assert data.load(config, PETS).classes == ("cat", "dog")
    chain = DataConfig(source="parquet", path="zip://a.parquet::file:///b.zip")
    with pytest.raises(ValueError, match="is a chain of URIs, which is not read; unpack it"):
        data.load(chain, PLAIN)
    missing = DataConfig(source="webdataset", path="run::2")
    with pytest.raises(ValueError, match="there is no such file, and chains of URIs are not read"):
        data.load(missing, PLAIN)
    (tmp_path / "run::3").mkdir()
    config = replace(write("parquet", tmp_path / "run::3"), path=str(tmp_path / "run::3"))
    assert data.load(config, ModelConfig(shape=SHAPE, num_classes=3)).read(0)[1] in (0, 1, 2)


@pytest.mark.parametrize("kind", ["parquet", "webdataset", "text"])
def test_store_without_credentials_is_one_sentence(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3fs.S3FileSystem.clear_instance_cache()
    config = DataConfig(source=kind, path="s3://bucket/x")
    try:
        with pytest.raises(ValueError, match=r"^'s3://bucket/x' cannot be opened: .*AWS_PROFILE$"):
            text.load(config, (9,), "train") if kind == "text" else data.load(config, PLAIN)
    finally:
        s3fs.S3FileSystem.clear_instance_cache()


def test_user_without_home_has_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = pets(tmp_path / "in")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    data.load(config, PETS)
    assert not (tmp_path / "aigc").exists()


def test_unchanged_data_keep_their_fingerprints(tmp_path: Path) -> None:
    """Pictures by name and content, shards by name, size, offsets and labels."""
    config = write("folder", tmp_path / "folder")
    total = hashlib.sha256()
    root = tmp_path / "folder"
    for path in sorted((root / "train").rglob("*.png"), key=str):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{path.relative_to(root)}\0{digest}\n".encode())
    assert data.load(config, ModelConfig(shape=SHAPE, num_classes=3)).fingerprint()["sha256"] == (
        _printed(total.hexdigest(), 13, ["cat", "dog", "eel"])
    )
    config = write("webdataset", tmp_path / "shards")
    total = hashlib.sha256()
    for path in sorted((tmp_path / "shards").glob("train*.tar")):
        entries = []
        with tarfile.open(path) as file:
            for member in file:
                key, _, suffix = member.name.rpartition(".")
                if suffix == "png":
                    entries.append([key, member.offset_data, member.size, None])
                else:
                    content = json.loads(file.extractfile(member).read())  # type: ignore[union-attr]
                    entries[-1][3] = content if suffix == "cls" else content["label"]
        told = [tuple(entry) for entry in entries]
        total.update(f"{path.name}\0{path.stat().st_size}\0{told}\n".encode())
    assert data.load(config, ModelConfig(shape=SHAPE, num_classes=3)).fingerprint()["sha256"] == (
        _printed(total.hexdigest(), 13, ["0", "1", "2"])
    )


def _printed(content: str, count: int, classes: list[str]) -> str:
    total = hashlib.sha256(f"{content}/{SHAPE}/{count}".encode())
    total.update(json.dumps(classes).encode())
    return total.hexdigest()


def test_survey_survives_reading_into_memory(tmp_path: Path) -> None:
    config = pets(tmp_path)
    (tmp_path / "notes.md").write_text("x")
    due = data.load(config, PETS)
    held = data.load(replace(config, memory_mb=9), PETS)
    assert isinstance(held, data.Dataset)
    assert held.survey.left_out == due.survey.left_out
    assert held.survey.splits == due.survey.splits
    assert np.array_equal(held.survey.labels, due.survey.labels)


@pytest.mark.parametrize(
    "name",
    [
        *("~$a.png", "@SynoEAStream", "a.png@SynoResource", "~snapshot", "FOUND.000", "Recycled"),
        *("Network Trash Folder", ".AppleDouble", "Temporary Items", ".~lock.a.png#"),
    ],
)
def test_is_system_knows_names_of_each_system(name: str) -> None:
    assert is_system(name)
    assert not is_system(f"a{name}") or "@Syno" in name
    assert not is_system("found.png")


def test_file_uris_are_plain_paths(tmp_path: Path) -> None:
    for number in range(4):
        write_png(tmp_path / "train" / f"{number}.png", number)
        write_png(tmp_path / "test" / f"{number}.png", 9 + number)
    plain, uri = (
        data.load(DataConfig(source="folder", path=f"{scheme}{tmp_path}"), PLAIN)
        for scheme in ("", "file://")
    )
    assert plain.fingerprint() == uri.fingerprint()


def write_png(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(picture(number)))
