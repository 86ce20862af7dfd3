"""Which source reads what is there, and what is refused because two could."""

import gc
import os
from pathlib import Path

import pytest

from aigc.config import DataConfig
from aigc.data.guess import decide, guess
from aigc.data.once import once
from aigc.data_report.report import inspect
from tests.data.pictures import KINDS, picture, pictures, png, write
from tests.data.rows import written
from tests.data.sounds import recordings


@pytest.mark.parametrize("kind", KINDS)
def test_guess_names_the_source_of_each_format(kind: str, tmp_path: Path) -> None:
    config = write(kind, tmp_path)
    assert guess(config.path).source == kind


@pytest.mark.parametrize(
    ("names", "source"),
    [
        (["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"], "idx"),
        (["emnist-letters-train-images-idx3-ubyte", "mapping.txt"], "idx"),
        (["dataset_info.json", "state.json", "data-00000-of-00001.arrow"], "hf"),
        (["a/1.JPEG", "a/1.xml", "b/2.jpeg"], "folder"),
        (["yes/1.wav", "no/2.wav", "testing_list.txt", "validation_list.txt"], "audio"),
        (["train.txt", "valid.txt", "LICENSE"], "text"),
        (["x.npy", "y.npy"], "npz"),
        (["1.png", "1.txt", "2.png", "2.txt", "3.png"], "paired"),
        (["1.png", "1.wav", "2.wav"], "paired"),
        (["0.jpg", "1.jpg", "README.txt"], "folder"),
        (["shard-0.tar", "shard-1.tar", "sizes.json"], "webdataset"),
    ],
)
def test_decide_chooses_a_source_by_names(names: list[str], source: str) -> None:
    assert decide("place", names).source == source


@pytest.mark.parametrize(
    ("names", "choices"),
    [
        (["a.png", "b.wav"], ["folder", "audio"]),
        (["a.parquet", "b.tar"], ["parquet", "webdataset"]),
        (["a.npz", "b.jpg", "c.jpg"], ["npz", "folder"]),
        ([f"{i}.png" for i in range(5)] + [f"t{i}.txt" for i in range(9)], ["folder", "text"]),
    ],
)
def test_decide_refuses_ambiguous_folders_and_names_both_sources(
    names: list[str], choices: list[str]
) -> None:
    with pytest.raises(ValueError, match="more than one source") as refused:
        decide("place", names)
    for source in choices:
        assert f"`aigc data {source} place`" in str(refused.value)


def test_decide_refuses_unknown_files_and_lists_them() -> None:
    with pytest.raises(ValueError, match=r"2 \.mp3, 1 \.csv"):
        decide("place", ["a.mp3", "b.mp3", "c.csv"])


def test_guess_refuses_an_empty_path(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is nothing at"):
        guess(str(tmp_path / "gone"))
    with pytest.raises(ValueError, match="no files"):
        guess(str(tmp_path))


def test_system_files_do_not_decide(tmp_path: Path) -> None:
    recordings(tmp_path, 2)
    for name in ("@eaDir/up/a.jpg", "#recycle/b.png", "__MACOSX/c.npz", ".cache/d.parquet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert guess(str(tmp_path)).source == "audio"


def test_linked_folders_are_scanned_once(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for number, (content, _) in enumerate(pictures("train")):
        (elsewhere / f"{number}.png").write_bytes(content)
    linked = tmp_path / "data"
    linked.mkdir()
    (linked / "cat").symlink_to(elsewhere)
    (elsewhere / "again").symlink_to(linked)  # a cycle
    found = guess(str(linked))
    assert (found.source, found.because) == ("folder", "13 pictures (.png)")


def test_guess_expands_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    recordings(tmp_path / "sounds", 2)
    assert guess("~/sounds").source == "audio"


def test_guess_takes_a_single_file(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("a\nb\n")
    assert guess(str(tmp_path / "lines.txt")).source == "text"


def test_paired_rows_are_guessed_by_stems(tmp_path: Path) -> None:
    assert guess(written(tmp_path).path).source == "paired"


def test_guess_and_both_splits_list_a_folder_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(30):
        (tmp_path / f"{number}.png").write_bytes(png(picture(number)))
    scanned: list[str] = []
    listed = os.scandir
    monkeypatch.setattr(
        "aigc.data.files.os.scandir", lambda path: scanned.append(path) or listed(path)
    )
    found = guess(str(tmp_path))
    assert len(scanned) == 1
    inspect(DataConfig(source=found.source, path=str(tmp_path)), quick=True)
    assert len(scanned) > 2
    del scanned[:]
    with once():
        found = guess(str(tmp_path))
        inspect(DataConfig(source=found.source, path=str(tmp_path)), quick=True)
    assert scanned == [str(tmp_path)]
    assert gc.isenabled()
    assert not gc.get_freeze_count()
