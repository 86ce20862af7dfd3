"""Splits by the names that people give them, the same in every source."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aigc import data
from aigc.artifact import audio_files
from aigc.config import DataConfig, ModelConfig
from aigc.data.sources import text
from aigc.data.splits import (
    divided,
    looks_like_a_split,
    of_files,
    of_folders,
    part_of,
    part_within,
)
from tests.data.pictures import SHAPE, parquet, picture, png, tar
from tests.data.rows import PAIRED
from tests.data.sounds import tone

NAMES = [
    ("train", "test"),
    ("Train", "Test"),
    ("TRAINING", "testing"),
    ("training_set", "test_set"),
    ("train", "val"),
    ("train", "Valid"),
    ("training", "validation"),
    ("train", "dev"),
]
SHOWN = {"train": 24, "test": 6}
"""Rows that the tests write into the first and the second of the names."""


def _pictures(folder: Path, count: int, first: int) -> None:
    for label, name in enumerate(("cat", "dog")):
        (folder / name).mkdir(parents=True)
        for number in range(label, count, 2):
            (folder / name / f"{first + number}.png").write_bytes(png(picture(first + number)))


def folder(root: Path, splits: dict[str, int]) -> DataConfig:
    for place, (name, count) in enumerate(splits.items()):
        _pictures(root / name, count, 100 * place)
    return DataConfig(source="folder", path=str(root), memory_mb=0)


def audio(root: Path, splits: dict[str, int]) -> DataConfig:
    for place, (name, count) in enumerate(splits.items()):
        for number in range(count):
            path = root / name / ("up", "down")[number % 2] / f"{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            wave = tone(200 + 100 * place + number, 64)
            path.write_bytes(audio_files.wav(wave, 8000))
    return DataConfig(source="audio", path=str(root), memory_mb=0)


def paired(root: Path, splits: dict[str, int]) -> DataConfig:
    for name, count in splits.items():
        for number in range(count):
            path = root / name / ("one", "two")[number % 2] / f"{number}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("onetw"[:: 1 if number % 2 else -1])
    return DataConfig(source="paired", path=str(root), memory_mb=0)


def lines(root: Path, splits: dict[str, int]) -> DataConfig:
    for name, count in splits.items():
        _lines(root / f"{name}.txt", name, count)
    return DataConfig(source="text", path=str(root))


def text_folders(root: Path, splits: dict[str, int]) -> DataConfig:
    for name, count in splits.items():
        for label in range(2):
            _lines(root / name / "ab"[label] / "x.txt", f"{name}{label}", count // 2)
    return DataConfig(source="text", path=str(root))


def _lines(path: Path, name: str, count: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(f"{name} {number}" for number in range(count)))


def _arrays(name: str, count: int) -> dict[str, np.ndarray]:
    return {
        "images": np.stack([picture(1000 * len(name) + n) for n in range(count)]),
        "labels": np.arange(count) % 2,
    }


def npz_keys(root: Path, splits: dict[str, int]) -> DataConfig:
    arrays = {f"{s}_{k}": v for s, n in splits.items() for k, v in _arrays(s, n).items()}
    np.savez(root / "a.npz", allow_pickle=False, **arrays)
    return DataConfig(source="npz", path=str(root / "a.npz"), memory_mb=0)


def npz_keras(root: Path, splits: dict[str, int]) -> DataConfig:
    arrays = {}
    for split, count in splits.items():
        both = _arrays(split, count)
        arrays |= {f"x_{split}": both["images"], f"Y_{split}": both["labels"]}
    np.savez(root / "a.npz", allow_pickle=False, **arrays)
    return DataConfig(source="npz", path=str(root / "a.npz"), memory_mb=0)


def npz_files(root: Path, splits: dict[str, int]) -> DataConfig:
    for split, count in splits.items():
        np.savez(root / f"{split}.npz", allow_pickle=False, **_arrays(split, count))
    return DataConfig(source="npz", path=str(root), memory_mb=0)


def shards(kind: str) -> Callable[[Path, dict[str, int]], DataConfig]:
    def write(root: Path, splits: dict[str, int]) -> DataConfig:
        for place, (name, count) in enumerate(splits.items()):
            rows = [(png(picture(100 * place + n)), n % 2) for n in range(count)]
            if kind == "parquet":
                parquet(root / f"pets-{name}-00000-of-00001.parquet", rows)
            else:
                tar(root / f"{name}0000.tar", rows)
        return DataConfig(source=kind, path=str(root), memory_mb=0)

    return write


def hf(root: Path, splits: dict[str, int]) -> DataConfig:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    parts = {
        name: datasets.Dataset.from_dict(
            {
                "image": [{"bytes": png(picture(n)), "path": None} for n in range(count)],
                "label": [n % 2 for n in range(count)],
            },
            features=features,
        )
        for name, count in splits.items()
    }
    datasets.DatasetDict(parts).save_to_disk(str(root / "pets"))
    return DataConfig(source="hf", path=str(root / "pets"), memory_mb=0)


WRITERS = {
    "folder": folder,
    "audio": audio,
    "paired": paired,
    "text files": lines,
    "text folders": text_folders,
    "npz keys": npz_keys,
    "npz keras": npz_keras,
    "npz files": npz_files,
    "parquet": shards("parquet"),
    "webdataset": shards("webdataset"),
    "hf": hf,
}


def load(config: DataConfig, split: data.Split) -> data.Source:
    if config.source == "text":
        return text.load(config, (24,), split)
    if config.source == "paired":
        return data.load(config, replace(PAIRED, text=7), split)
    shape = (1, 64) if config.source == "audio" else SHAPE
    return data.load(config, ModelConfig(shape=shape, num_classes=2), split)


@pytest.mark.parametrize("names", NAMES, ids="-".join)
@pytest.mark.parametrize("kind", ["folder", "text files", "npz keys", "webdataset"])
def test_split_folders_go_by_common_names(
    kind: str, names: tuple[str, str], tmp_path: Path
) -> None:
    config = WRITERS[kind](tmp_path, dict(zip(names, SHOWN.values(), strict=True)))
    for split, count in SHOWN.items():
        source = load(config, split)  # type: ignore[arg-type]
        assert len(source) == count
        assert list(source.survey.splits.values()) == [24, 6]
        assert not {"train", "training"} & {name.lower() for name in source.classes}


@pytest.mark.parametrize("kind", WRITERS)
def test_validation_beside_test_is_held_out(kind: str, tmp_path: Path) -> None:
    config = WRITERS[kind](tmp_path, {"Train": 24, "Val": 10, "Test": 6})
    train, test = (load(config, split) for split in ("train", "test"))
    assert (len(train), len(test)) == (24, 6)
    names = ("train", "val", "test") if kind.startswith("npz") else ("Train", "Val", "Test")
    assert {name: train.survey.splits[name] for name in names} == dict(
        zip(names, (24, 10, 6), strict=True)
    )
    assert len(train.classes) == (0 if kind == "text files" else 2)
    assert train.fingerprint() != test.fingerprint()


@pytest.mark.parametrize("kind", WRITERS)
def test_lone_train_folder_is_a_split_with_a_tenth_held_out(kind: str, tmp_path: Path) -> None:
    config = WRITERS[kind](tmp_path, {"train": 60})
    train, test = (load(config, split) for split in ("train", "test"))
    assert len(train) + len(test) == 60
    assert 0 < len(test) < 20
    assert len(train.classes) == (0 if kind == "text files" else 2)
    assert train.survey.splits == {"train": len(train), "held out": len(test)}


def test_split_folders_below_classes_are_splits(tmp_path: Path) -> None:
    for number, (label, split) in enumerate(
        (label, split) for label in ("cat", "dog") for split in ("train", "test")
    ):
        (tmp_path / label / split).mkdir(parents=True)
        (tmp_path / label / split / "0.png").write_bytes(png(picture(number)))
    source = load(DataConfig(source="folder", path=str(tmp_path)), "train")
    assert source.classes == ("cat", "dog")
    assert len(source) == 2


def test_splits_within_some_classes_only_are_noted(tmp_path: Path) -> None:
    for number, place in enumerate(("cat/train", "cat/test", "dog/all")):
        (tmp_path / place).mkdir(parents=True)
        for row in range(12):
            content = png(picture(100 * number + row))
            (tmp_path / place / f"{row}.png").write_bytes(content)
    source = load(DataConfig(source="folder", path=str(tmp_path)), "train")
    assert source.classes == ("cat", "dog")
    assert "folders of splits lie within some folders, but not in all: they are not heeded" in (
        source.survey.notes
    )


@pytest.mark.parametrize("around", ["pets", "pets/v2"])
def test_folder_around_the_splits_is_no_class(around: str, tmp_path: Path) -> None:
    config = replace(folder(tmp_path / around, {"train": 6, "val": 4}), path=str(tmp_path))
    source = load(config, "test")
    assert source.classes == ("cat", "dog")
    assert len(source) == 4


@pytest.mark.parametrize("name", ["Train2", "trian", "tests", "valdation"])
def test_split_like_folder_among_classes_is_a_class_and_noted(name: str, tmp_path: Path) -> None:
    for number, folder_name in enumerate(("cat", name)):
        (tmp_path / folder_name).mkdir()
        for row in range(12):
            content = png(picture(100 * number + row))
            (tmp_path / folder_name / f"{row}.png").write_bytes(content)
    source = load(DataConfig(source="folder", path=str(tmp_path)), "train")
    assert sorted(source.classes) == sorted(("cat", name))
    assert f"folder {name} is taken as a class, though it looks like a split" in source.survey.notes


def test_class_called_train_is_a_class_and_noted(tmp_path: Path) -> None:
    for name in ("bus", "plane", "train"):
        (tmp_path / name).mkdir()
        for row in range(12):
            content = png(picture(hash(name) % 1000 + row))
            (tmp_path / name / f"{row}.png").write_bytes(content)
    config = DataConfig(source="folder", path=str(tmp_path))
    source = data.load(config, ModelConfig(shape=SHAPE, num_classes=3))
    assert source.classes == ("bus", "plane", "train")
    assert any("folder train is taken as a class" in note for note in source.survey.notes)


def test_files_beside_the_splits_are_counted(tmp_path: Path) -> None:
    config = folder(tmp_path, {"train": 6, "test": 4})
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra" / "1.png").write_bytes(png(picture(7)))
    [beside] = load(config, "train").survey.left_out
    assert (beside.count, beside.first) == (1, ("extra/1.png",))
    assert beside.reason == "files beside those of the splits (test, train)"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("train", "Training", "test"), "holds Training and train, which are one split"),
        (("test", "val"), r"holds test and val, but no folder train; .* set --data.path .*/"),
    ],
)
def test_contradicting_folders_are_refused(
    names: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    config = folder(tmp_path, dict.fromkeys(names, 4))
    with pytest.raises(ValueError, match=message):
        load(config, "train")


def test_images_beside_a_test_folder_are_training_rows(tmp_path: Path) -> None:
    images = np.stack([picture(n) for n in range(9)])
    np.savez(tmp_path / "a.npz", images=images[:6], test_images=images[6:])
    config = DataConfig(source="npz", path=str(tmp_path / "a.npz"))
    counts = [
        len(data.load(config, ModelConfig(shape=SHAPE), split)) for split in ("train", "test")
    ]
    assert counts == [6, 3]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        *(("train-00001-of-00010", "train"), ("cats_val_7", "val"), ("wiki.test.tokens", "test")),
        *(("train2017", "train"), ("imagenet-validation-3", "val"), ("dev_0", "val")),
        *(("trainer-1", None), ("contest-2", None), ("values-3", None), ("latest", None)),
    ],
)
def test_word_within_a_file_name_gives_its_split(name: str, part: str | None) -> None:
    assert part_within(name) == part


def test_whole_names_and_keys_give_their_split() -> None:
    assert [part_of(name) for name in ("Training", "test_set", "Train2", "cat")] == [
        *("train", "test"),
        *(None, None),
    ]
    assert divided("x_Train") == ("train", "x")
    assert divided("valid-images") == ("val", "images")
    assert divided("images") == (None, "images")
    assert not looks_like_a_split("cat")


def test_names_of_one_split_only_are_ignored() -> None:
    splits = of_files(["train-1.tar", "other-1.tar"])
    assert not splits.spelled
    assert any("train-1.tar looks like a split" in note for note in splits.notes)


def test_years_behind_split_names_are_kept_and_noted() -> None:
    names = ["train2017/cat/1.png", "val2017/cat/2.png", "train2017/dog/3.png"]
    splits = of_folders(names, "coco")
    assert splits.parts == ("train", "val", "train")
    assert splits.rests == ("cat/1.png", "cat/2.png", "dog/3.png")
    assert dict(splits.spelled) == {"train": "train2017", "val": "val2017"}
    assert "train2017 and val2017 are splits, not classes" in splits.notes[0]
    inner = of_folders([f"images/{name}" for name in names], "coco")
    assert inner.parts == splits.parts
    for tops in (("train1", "plane1"), ("train1", "train2"), ("train1", "train2", "test1")):
        classes = of_folders([f"{top}/1.png" for top in tops], "toys")
        assert not classes.spelled
        assert "folder train1 is taken as a class, though it looks like a split" in classes.notes


@pytest.mark.parametrize("name", ["eval", "Evaluation", "holdout", "HeldOut", "eval_set"])
def test_held_out_splits_go_by_more_names(name: str) -> None:
    assert part_of(name) == "val"
