"""Labels of every type are the classes that occur in training, under their own names."""

import datetime
import io
import json
import struct
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aigc import data
from aigc.config import DataConfig, ModelConfig
from aigc.data import CorruptRow
from aigc.data._splits import name_held_out
from tests.data.pictures import SHAPE, picture, png
from tests.data.tiny import idx

DATES = [datetime.date(2024, month, 1) for month in (3, 1, 2)]
LABELS: dict[str, tuple[list[Any], tuple[str, ...]]] = {
    "from one": ([3, 1, 2] * 8, ("1", "2", "3")),
    "black and white": ([0, 255, 0] * 8, ("0", "255")),
    "years": ([2001, 1990, 2024] * 8, ("1990", "2001", "2024")),
    "gaps": ([0, 1, 3] * 8, ("0", "1", "3")),
    "strings": (["dog", "cat", "cat"] * 8, ("cat", "dog")),
    "numbers as strings": (["10", "9", "10"] * 8, ("9", "10")),
    "booleans": ([True, False, True] * 8, ("False", "True")),
    "signs": ([-1, 1, 1] * 8, ("-1", "1")),
    "whole floats": ([1.0, 0.0, 2.0] * 8, ("0", "1", "2")),
    "floats": ([0.5, 10.5, 2.5] * 8, ("0.5", "2.5", "10.5")),
    "decimals": ([Decimal("2.50"), Decimal("10.25"), Decimal("2.50")] * 8, ("2.50", "10.25")),
    "dates": (DATES * 8, ("2024-01-01", "2024-02-01", "2024-03-01")),
    "large": ([70_000, 2**40, 70_000] * 8, ("70000", str(2**40))),
}
JSON = (bool, int, float, str)


def npz(root: Path, splits: dict[str, Sequence[Any]]) -> DataConfig:
    arrays: dict[str, np.ndarray] = {}
    for split, labels in splits.items():
        arrays[f"{split}_images"] = np.stack([picture(n) for n in range(len(labels))])
        arrays[f"{split}_labels"] = np.array(labels)
    np.savez(root / "a.npz", allow_pickle=False, **arrays)
    return DataConfig(source="npz", path=str(root / "a.npz"), memory_mb=0)


def parquet(root: Path, splits: dict[str, Sequence[Any]], category: bool = False) -> DataConfig:
    for split, labels in splits.items():
        images = [png(picture(n)) for n in range(len(labels))]
        column = pa.array(labels) if not category else pa.array(labels).dictionary_encode()
        table = pa.table({"image": pa.array(images, pa.binary()), "label": column})
        pq.write_table(table, root / f"{split}-0.parquet")
    return DataConfig(source="parquet", path=str(root), memory_mb=0)


def webdataset(root: Path, splits: dict[str, Sequence[Any]]) -> DataConfig:
    for split, labels in splits.items():
        with tarfile.open(root / f"{split}-0.tar", "w") as file:
            for number, label in enumerate(labels):
                text = json.dumps({"label": label}) if number % 2 else str(label)
                members = {"png": png(picture(number))}
                if label is not None:
                    members["json" if number % 2 else "cls"] = text.encode()
                for suffix, content in members.items():
                    member = tarfile.TarInfo(f"{number:04}.{suffix}")
                    member.size = len(content)
                    file.addfile(member, io.BytesIO(content))
    return DataConfig(source="webdataset", path=str(root), memory_mb=0)


def hf(root: Path, splits: dict[str, Sequence[Any]]) -> DataConfig:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    parts = {}
    for split, labels in splits.items():
        images = [{"bytes": png(picture(n)), "path": None} for n in range(len(labels))]
        part = datasets.Dataset(pa.table({"image": images, "label": pa.array(labels)}))
        parts[split] = part.cast_column("image", datasets.Image())
    datasets.DatasetDict(parts).save_to_disk(str(root / "pets"))
    return DataConfig(source="hf", path=str(root / "pets"), memory_mb=0)


WRITERS = {"npz": npz, "parquet": parquet, "webdataset": webdataset, "hf": hf}


def conditional(config: DataConfig, classes: int, split: data.Split = "train") -> data.Source:
    return data.load(config, ModelConfig(shape=SHAPE, num_classes=classes), split)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (kind, name)
        for kind in WRITERS
        for name, (labels, _) in LABELS.items()
        if kind in ("parquet", "hf")
        or (kind == "npz" and name not in ("decimals",))
        or (kind == "webdataset" and isinstance(labels[0], JSON) and name != "booleans")
    ],
)
def test_labels_are_numbered_by_occurrence_and_keep_names(
    kind: str, name: str, tmp_path: Path
) -> None:
    labels, classes = LABELS[name]
    if kind == "npz" and name == "dates":
        labels = list(np.array(labels, "datetime64[D]"))
    config = WRITERS[kind](tmp_path, {"train": labels, "test": labels[:3]})
    source = conditional(config, len(classes))
    assert source.classes == classes
    rows = [source.read(row)[1] for row in range(len(labels))]
    wanted = [str(label).removesuffix(".0") for label in labels]
    assert [classes[label] for label in rows] == wanted
    assert source.survey.labels.tolist() == rows
    assert conditional(config, len(classes), "test").classes == classes


@pytest.mark.parametrize("labels", [["7", "30", "7"] * 8, [7, 30, 7] * 8], ids=["str", "int"])
def test_parquet_dictionary_columns_are_labels_by_value(labels: list[Any], tmp_path: Path) -> None:
    config = parquet(tmp_path, {"train": labels, "test": labels}, category=True)
    assert conditional(config, 2).classes == ("7", "30")


@pytest.mark.parametrize("kind", WRITERS)
def test_class_missing_in_training_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    config = WRITERS[kind](tmp_path, {"train": ["cat", "dog"] * 6, "test": ["cat", "eel"]})
    for split in ("train", "test"):
        with pytest.raises(ValueError, match=r"has class eel in split test that split train lacks"):
            conditional(config, 2, split)  # type: ignore[arg-type]
    assert len(data.load(config, ModelConfig(shape=SHAPE))) == 12


def test_picture_class_missing_in_training_is_refused_by_name(tmp_path: Path) -> None:
    for split, names in (("Train", ("cat", "dog")), ("val", ("cat", "eel"))):
        for name in names:
            (tmp_path / split / name).mkdir(parents=True)
            (tmp_path / split / name / "0.png").write_bytes(png(picture(len(name))))
    config = DataConfig(source="folder", path=str(tmp_path))
    with pytest.raises(ValueError, match=r"class eel in split val that split Train lacks \(2: cat"):
        conditional(config, 2)
    assert len(data.load(config, ModelConfig(shape=SHAPE))) == 2


@pytest.mark.parametrize("kind", WRITERS)
def test_bad_labels_are_ignored_without_classes(kind: str, tmp_path: Path) -> None:
    labels = [None if kind != "npz" else -1, -1, 2] * 5
    config = WRITERS[kind](tmp_path, {"train": labels, "test": labels})
    source = data.load(replace(config, memory_mb=9), ModelConfig(shape=SHAPE))
    assert len(source) == 15
    assert source.classes == ()
    assert source.read(0)[1] == 0
    assert any(note.startswith("labels are not used: ") for note in source.survey.notes)


@pytest.mark.parametrize("value", [float("nan"), -7, ""])
def test_invalid_label_is_a_corrupt_row(value: Any, tmp_path: Path) -> None:
    labels = ["a", "b", value] * 4 if value == "" else [1, 2, value] * 4
    config = npz(tmp_path, {"train": labels, "test": labels[:2]})
    source = conditional(config, 2)
    assert any(note.endswith("have no label and cannot be read") for note in source.survey.notes)
    told = "label -7" if value == -7 else "no label"
    with pytest.raises(CorruptRow, match=rf"row 2 of train_images in .* has {told}; labels are"):
        source.read(2)


@pytest.mark.parametrize("values", [(0, 1, 2), (1, 2, 26), (0, 255), (7,)], ids=str)
def test_idx_labels_are_numbered_by_occurrence(values: tuple[int, ...], tmp_path: Path) -> None:
    for split, count in (("train", 24), ("t10k", 6)):
        idx(tmp_path, split, count)
        labels = bytes(values[n % len(values)] for n in range(count))
        head = struct.pack(">4BI", 0, 0, 8, 1, count)
        (tmp_path / f"{split}-labels-idx1-ubyte").write_bytes(head + labels)
    config = DataConfig(source="idx", path=str(tmp_path))
    for split in ("train", "test"):
        source = data.load(config, ModelConfig(num_classes=len(values)), split)  # type: ignore[arg-type]
        assert source.classes == tuple(map(str, values))
        assert [source.read(row)[1] for row in range(6)] == [n % len(values) for n in range(6)]
        assert source.survey.splits == {"train": 24, "test": 6}


def test_idx_class_missing_in_training_is_refused_by_name(tmp_path: Path) -> None:
    for split, count, label in (("train", 6, 1), ("t10k", 3, 4)):
        idx(tmp_path, split, count)
        head = struct.pack(">4BI", 0, 0, 8, 1, count)
        (tmp_path / f"{split}-labels-idx1-ubyte").write_bytes(head + bytes([label] * count))
    config = DataConfig(source="idx", path=str(tmp_path))
    with pytest.raises(ValueError, match="has class 4 in split test that split train lacks"):
        data.load(config, ModelConfig(num_classes=1))
    assert len(data.load(config, ModelConfig())) == 6


def test_unlabelled_test_split_is_allowed_without_classes(
    tmp_path: Path,
) -> None:
    for number, place in enumerate(("train/cat", "train/dog", "test")):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "0.png").write_bytes(png(picture(number)))
    config = DataConfig(source="folder", path=str(tmp_path))
    assert len(data.load(config, ModelConfig(shape=SHAPE))) == 2
    with pytest.raises(ValueError, match=r"in sub-folders and beside them, such as test/0\.png"):
        conditional(config, 2)


def test_list_columns_are_no_labels(tmp_path: Path) -> None:
    config = parquet(tmp_path, {"train": [[0, 1]] * 12, "test": [[1]] * 3})
    with pytest.raises(ValueError, match=r"column 'label' holds list.*; set --model.num-classes 0"):
        conditional(config, 2)
    assert len(data.load(config, ModelConfig(shape=SHAPE))) == 12


def test_label_count_must_equal_row_count_if_used(tmp_path: Path) -> None:
    config = npz(tmp_path, {"train": np.eye(12, dtype=int), "test": np.eye(3, dtype=int)})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match=r"3 test_images but test_labels of shape \(3, 3\)"):
        conditional(config, 12)
    assert len(data.load(config, ModelConfig(shape=SHAPE))) == 12


def test_declared_classes_without_rows_do_not_count(tmp_path: Path) -> None:
    config = npz(tmp_path, {"train": [0, 2] * 6, "test": [0, 2]})
    arrays = dict(np.load(config.path))
    np.savez(config.path, allow_pickle=False, **arrays, classes=np.array(["cat", "dog", "eel"]))
    source = conditional(config, 2)
    assert source.classes == ("cat", "eel")
    assert {source.read(row)[1] for row in range(12)} == {0, 1}
    assert "classes without a row to train on are left out: dog" in source.survey.notes


def test_held_out_rows_leave_some_of_a_rare_class(tmp_path: Path) -> None:
    """The draw would hold out the only picture of class 47."""
    assert name_held_out("47/0.png")
    for name, count in (("47", 1), ("00", 60)):
        (tmp_path / name).mkdir()
        for number in range(count):
            content = png(picture(int(name) + 100 * number))
            (tmp_path / name / f"{number}.png").write_bytes(content)
    config = DataConfig(source="folder", path=str(tmp_path))
    train, test = (conditional(config, 2, split) for split in ("train", "test"))
    assert set(train.labels) == {0, 1}  # type: ignore[attr-defined]
    assert set(test.labels) == {0}  # type: ignore[attr-defined]
    assert "classes of which every row would be held out stay in training: 47" in train.survey.notes
    assert len(train) + len(test) == 61
    assert len(data.load(config, ModelConfig(shape=SHAPE))) == len(train) - 1


def test_wrong_class_count_lists_the_classes(tmp_path: Path) -> None:
    config = npz(tmp_path, {"train": ["d", "a", "c", "b"] * 3, "test": ["a"]})
    with pytest.raises(
        ValueError, match=r"has 4 classes; set .* 4 or 0 \(the classes are a, b, c, d\)"
    ):
        conditional(config, 3)


def test_labels_that_differ_from_class_indices_are_noted(tmp_path: Path) -> None:
    config = npz(tmp_path, {"train": [1, 2, 3] * 4, "test": [1]})
    notes = conditional(config, 3).survey.notes
    assert "labels 1, 2, 3 are classes 0 to 2, named by them" in notes
    config = npz(tmp_path, {"train": [0, 1, 2] * 4, "test": [1]})
    assert conditional(config, 3).survey.notes == ()


@pytest.mark.parametrize(
    "metadata",
    ["null", '{"info":null}', '{"info":{"features":null}}', '{"info":{"features":[]}}', "[1]", "{"],
)
def test_unknown_schema_metadata_is_ignored_and_noted(metadata: str, tmp_path: Path) -> None:
    config = parquet(tmp_path, {"train": [0, 5, 0], "test": [5]})
    for path in tmp_path.glob("*.parquet"):
        table = pq.read_table(path).replace_schema_metadata({"huggingface": metadata})
        pq.write_table(table, path)
    source = data.load(config, ModelConfig(shape=SHAPE, num_classes=2))
    assert source.classes == ("0", "5")
    assert any("metadata of Hugging Face are not used" in n for n in source.survey.notes)


def test_complex_labels_are_refused(tmp_path: Path) -> None:
    config = npz(tmp_path, {"train": [0j, 1j, 0j], "test": [1j]})
    with pytest.raises(ValueError, match=r"labels are complex numbers; set --model\.num-classes 0"):
        data.load(config, ModelConfig(shape=SHAPE, num_classes=2))
    assert len(data.load(config, ModelConfig(shape=SHAPE))) == 3
