"""Five data sets as people have them: what `aigc data` finds in each, and what the docs show."""

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aigc.commands.inspect_data import named
from aigc.config import DataConfig
from aigc.data_report.picture import GAP, draw_rows
from aigc.data_report.report import Report, inspect
from cluster.train import command as train
from tests.data import found

Told = Callable[[str], Report]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All five, each in a folder of its name."""
    place = tmp_path_factory.mktemp("found")
    for name, (make, _, _) in found.SETS.items():
        make(place / name)
    return place


@pytest.fixture
def told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Told:
    """Inspect one of them by its name."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.chdir(folder)

    def report(name: str) -> Report:
        config, guessed = named((name,), DataConfig(source=""))
        flags = dict(zip(*[iter(found.SETS[name][2])] * 2, strict=True))
        changes: dict[str, Any] = {flag[2:]: value for flag, value in flags.items()}
        return inspect(replace(config, **changes), guessed=guessed).report

    return report


def test_imagenet_tree_has_splits_and_no_class_called_train(told: Told) -> None:
    report = told("imagenet")
    assert report.source == "folder"
    assert report.rows == {"train": 36, "test": 12}
    assert [one["name"] for one in report.classes] == list(found.SYNSETS)
    assert [one["train"] for one in report.classes] == [12, 12, 12]
    assert report.duplicates["across"] == 1
    assert report.pictures["modes"] == {"RGB": 47, "CMYK": 1}
    assert report.unreadable["count"] == 0


def test_mask_is_not_taken_for_the_photo(told: Told, folder: Path) -> None:
    with pytest.raises(ValueError, match=r"--data\.member"):
        inspect(DataConfig(source="webdataset", path=str(folder / "coco")))
    report = told("coco")
    assert report.source == "webdataset"
    assert report.rows == {"train": 20, "test": 6}
    assert report.pictures["modes"] == {"RGB": 26}
    assert [one["name"] for one in report.classes] == ["0", "1", "2"]
    assert "--data.member jpg" in report.suggestion


def test_parquet_schema_names_classes_and_one_has_no_rows(told: Told) -> None:
    report = told("pets")
    assert report.source == "parquet"
    assert report.rows == {"train": 24, "test": 6}
    assert {one["name"]: one["train"] for one in report.classes if one["train"]} == {
        "abyssinian": 8,
        "bengal": 8,
        "birman": 8,
    }


def test_speech_commands_excludes_noise(told: Told) -> None:
    report = told("speech_commands")
    assert report.source == "audio"
    assert report.rows["test"] == 6
    assert {one["name"] for one in report.classes} == {"no", "up", "yes"}
    assert set(report.sounds["rates_hz"]) == {"16000"}
    assert report.sounds["longest_s"] == 1.0
    assert report.shapes == {"audio": (1, 8192)}


def test_nas_leftovers_are_skipped_and_counted(told: Told) -> None:
    report = told("share")
    assert report.source == "folder"
    assert {one["name"] for one in report.classes} == {"Rome 2019", "Zoo"}
    assert sum(report.rows.values()) == 23
    assert report.unreadable["count"] == 1
    assert sum(report.duplicates[k] for k in ("train", "test", "across")) == 1
    assert report.pictures["smallest"] != [12, 9]
    left_out = " ".join(f"{one['count']} {one['reason']}" for one in report.left_out)
    assert ".heic" in left_out
    assert ".mp4" in left_out
    assert sum(one["count"] for one in report.left_out) >= 26


@pytest.mark.parametrize("name", found.SETS)
def test_suggested_command_dry_runs(name: str, told: Told) -> None:
    report = told(name)
    assert train([*shlex.split(report.suggestion)[2:], "--dry-run"]) == 0


def test_documented_output_is_current(folder: Path, told: Told) -> None:
    """On failure: `python -m tests.data.found` writes docs/training.md again."""
    shown = found.DOCUMENT.read_text().partition(found.BEGIN)[2].partition(found.END)[0]
    assert without_hashes(found.document(folder)) == without_hashes(shown)


def without_hashes(text: str) -> str:
    """Encoders of other versions make other bytes of the same pictures."""
    return "\n".join(line for line in text.splitlines() if not line.startswith("fingerprint"))


def test_found_sets_are_deterministic(folder: Path, tmp_path: Path) -> None:
    found.imagenet(tmp_path / "imagenet")
    names = [p.relative_to(tmp_path) for p in sorted(tmp_path.rglob("*")) if p.is_file()]
    assert len(names) == 36 + 12 + 1
    for name in names:
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes()
    assert np.asarray(found.photo(1)).std() > 10


def test_real_mixed_mode_pictures_are_counted_and_drawn() -> None:
    place = found.ROOT.parent / "shared" / "data" / "emoji64"
    if not place.is_dir():
        pytest.skip(f"{place} is not on this machine")
    told = inspect(DataConfig(source="folder", path=str(place)), most=150)
    report = told.report
    assert report.source == "folder"
    assert sum(report.rows.values()) == 3781
    assert report.tried == {"train": 150, "test": 150}
    assert len(report.classes) == 9
    assert report.pictures["sizes"] == [[64, 64, 300]]
    assert {"RGBA", "LA"} <= set(report.pictures["modes"])
    assert report.shapes == {"image": (4, 64, 64)}
    assert draw_rows(told).shape[0] == 9 * (64 + GAP) - GAP
