"""Ambiguous data are refused, and the message names the choice."""

import io
import re
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from aigc import data
from aigc.config import DataConfig, ModelConfig, TrainConfig
from aigc.data import CorruptRow
from aigc.data.sources import paired
from tests.data.pictures import SHAPE, picture, png
from tests.data.rows import PAIRED

PLAIN = ModelConfig(shape=SHAPE)


def chosen(error: pytest.ExceptionInfo[ValueError], flag: str) -> str:
    """The choice that a message advises."""
    found = re.search(rf"set --data\.{flag}[ =](\S+?)[,;]? ", f"{error.value} ")
    assert found, str(error.value)
    return found[1]


def pixels(number: int) -> NDArray[np.uint8]:
    return picture(number).transpose(2, 0, 1)


def shards(folder: Path, members: list[tuple[str, bytes]]) -> DataConfig:
    for split in ("train", "test"):
        with tarfile.open(folder / f"{split}.tar", "w") as file:
            for name, content in members:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                file.addfile(member, io.BytesIO(content))
    return DataConfig(source="webdataset", path=str(folder), memory_mb=0)


def test_member_chooses_between_picture_and_mask(tmp_path: Path) -> None:
    members = []
    for row in range(3):
        members += [(f"{row}.png", png(picture(row))), (f"{row}.seg.png", png(picture(90 + row)))]
    config = shards(tmp_path, members)
    with pytest.raises(ValueError, match=r"0 in .* has several pictures \(png, seg\.png\)") as told:
        data.load(config, PLAIN)
    source = data.load(replace(config, member=chosen(told, "member")), PLAIN)
    assert [np.array_equal(source.read(row)[0], pixels(row)) for row in range(3)] == [True] * 3
    assert source.survey.left_out[0].reason.endswith("not read (.seg.png)")
    mask = data.load(replace(config, member=".SEG.png"), PLAIN)
    assert np.array_equal(mask.read(1)[0], pixels(91))
    assert mask.fingerprint() != source.fingerprint()
    with pytest.raises(ValueError, match=r"has a picture 'webp'; .* one of: png, seg\.png"):
        data.load(replace(config, member="webp"), PLAIN)


def test_colliding_tar_keys_are_refused(tmp_path: Path) -> None:
    twice = [("a.png", png(picture(0))), ("b.png", png(picture(1))), ("a.png", png(picture(2)))]
    with pytest.raises(ValueError, match=r"\.tar has a\.png twice; give every row a key"):
        data.load(shards(tmp_path, twice), PLAIN)
    dotted = [(f"img.{row:03}.png", png(picture(row))) for row in range(30)]
    with pytest.raises(ValueError, match=r"img in .*; a key ends at the first dot of a name;"):
        data.load(shards(tmp_path, dotted), PLAIN)


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ([("cls", b"0"), ("cls", b"1")], "0 has two labels, 0 and 1, in "),
        ([("cls", b"0"), ("json", b'{"label": 1}')], "0 has two labels, 0 and 1, in "),
        ([("json", b'{"label": "a"}'), ("cls", b"b")], "0 has two labels, 'b' and 'a', in "),
        ([("cls", b"1"), ("CLS", b"1\n"), ("json", b'{"label": 1}')], ""),
        ([("cls", b"1"), ("json", b'{"label": "dog"}')], ""),
        ([("cls", b"1"), ("json", b'{"caption": "no label"}')], ""),
    ],
)
def test_differing_labels_of_one_row_are_refused(
    labels: list[tuple[str, bytes]], told: str, tmp_path: Path
) -> None:
    rows = [("0.png", png(picture(0))), *((f"0.{suffix}", text) for suffix, text in labels)]
    config = shards(tmp_path, [*rows, ("1.png", png(picture(1))), ("1.cls", b"1")])
    plain = data.load(config, PLAIN)
    assert len(plain) == 2
    assert any("labels are not used: 0 has two" in n for n in plain.survey.notes) == bool(told)
    model = replace(PLAIN, num_classes=1)
    if told:
        with pytest.raises(ValueError, match=f"{told}.*of which one has to go; set --model"):
            data.load(config, model)
    else:
        assert data.load(config, model).read(0)[1] == 0


def test_one_key_with_two_picture_kinds_is_no_collision(tmp_path: Path) -> None:
    config = shards(tmp_path, [("a.png", png(picture(0))), ("b.jpg", png(picture(1)))])
    assert len(data.load(config, PLAIN)) == 2


def test_member_chooses_between_two_pictures(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"{number}.png").write_bytes(png(picture(number)))
        (tmp_path / f"{number}.jpg").write_bytes(png(picture(100 + number)))
    config = DataConfig(source="paired", path=str(tmp_path), memory_mb=0)
    model = replace(PAIRED, num_classes=0)
    message = r"0\.jpg and 0\.png of .* are both the image of one row"
    with pytest.raises(ValueError, match=message) as told:
        data.load(config, model)
    found = []
    for member in (chosen(told, "member"), "JPG"):
        with pytest.raises(ValueError, match="vocabulary"):  # there are no texts, but pictures
            data.load(replace(config, member=member), model)
        shapes = {"image": SHAPE, "text": (4,)}
        source = paired.load(replace(config, member=member), shapes, "train")
        found.append(source.fingerprint())
        assert source.survey.left_out[0].count == 30
    assert found[0] != found[1]
    with pytest.raises(ValueError, match=r"data\.member is 'wav'; pictures are \.png"):
        data.load(replace(config, member="wav"), model)


def test_member_is_suggested_only_if_it_helps(tmp_path: Path) -> None:
    for name in ("a.png", "a.PNG"):
        (tmp_path / name).write_bytes(png(picture(0)))
    config = DataConfig(source="paired", path=str(tmp_path))
    with pytest.raises(ValueError, match="of one row; rename one, or take it away"):
        data.load(config, PAIRED)


def test_member_may_change_on_resume_if_the_data_stay() -> None:
    fixed = TrainConfig(preset="dcgan:digits", model=ModelConfig()).fixed()
    assert "data.source" in fixed
    assert not {"data.column", "data.member", "data.range"} & fixed.keys()


def test_ambiguous_labels_are_refused_only_if_used(
    tmp_path: Path,
) -> None:
    (tmp_path / "sub").mkdir()
    np.save(tmp_path / "images.npy", images(0))
    for place in (tmp_path, tmp_path / "sub"):
        np.save(place / "labels.npy", np.arange(12) % 2)
    config = DataConfig(source="npz", path=str(tmp_path))
    with pytest.raises(ValueError, match=r"labels of .* and labels of .* could both be meant"):
        data.load(config, ModelConfig(shape=SHAPE, num_classes=2))
    assert data.load(config, PLAIN).classes == ()


@pytest.mark.parametrize("other", ["aif", "aifc", "aiff", "flac"])
def test_two_sounds_per_row_are_refused(other: str, tmp_path: Path) -> None:
    for suffix in ("wav", other):
        (tmp_path / f"a.{suffix}").write_bytes(b"x")
    config = DataConfig(source="paired", path=str(tmp_path))
    message = rf"a\.{other} and a\.wav of .* are both the audio of one row"
    with pytest.raises(ValueError, match=message):
        data.load(config, PAIRED)


def table(folder: Path, columns: tuple[str, ...]) -> DataConfig:
    for split in ("train", "test"):
        parts = {
            name: pa.array([png(picture(100 * place + n)) for n in range(4)], pa.binary())
            for place, name in enumerate(columns)
        }
        pq.write_table(pa.table(parts), folder / f"{split}.parquet")
    return DataConfig(source="parquet", path=str(folder), memory_mb=0)


def saved(folder: Path, columns: tuple[str, ...]) -> DataConfig:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    features = datasets.Features({name: datasets.Image() for name in columns})
    rows = {
        name: [{"bytes": png(picture(100 * place + n)), "path": None} for n in range(4)]
        for place, name in enumerate(columns)
    }
    part = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": part, "test": part}).save_to_disk(str(folder / "pets"))
    return DataConfig(source="hf", path=str(folder / "pets"), memory_mb=0)


TABLES = {"parquet": table, "hf": saved}


@pytest.mark.parametrize("kind", TABLES)
def test_image_column_is_used_by_its_name(kind: str, tmp_path: Path) -> None:
    config = TABLES[kind](tmp_path, ("mask", "image"))
    assert np.array_equal(data.load(config, PLAIN).read(0)[0], pixels(100))
    mask = data.load(replace(config, column="mask"), PLAIN)
    assert np.array_equal(mask.read(0)[0], pixels(0))
    assert mask.fingerprint() != data.load(config, PLAIN).fingerprint()


@pytest.mark.parametrize("kind", TABLES)
def test_column_chooses_between_picture_columns(kind: str, tmp_path: Path) -> None:
    config = TABLES[kind](tmp_path, ("photo", "mask"))
    with pytest.raises(ValueError, match="has pictures in photo and in mask") as told:
        data.load(config, PLAIN)
    source = data.load(replace(config, column=chosen(told, "column")), PLAIN)
    assert np.array_equal(source.read(0)[0], pixels(0))
    with pytest.raises(ValueError, match=r"no pictures in 'fotos'; .* one of: photo, mask"):
        data.load(replace(config, column="fotos"), PLAIN)


def test_class_columns_need_one_called_label(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    kinds = {name: datasets.ClassLabel(names=["a", "b"]) for name in ("coarse", "fine")}
    rows = {
        "image": [{"bytes": png(picture(n)), "path": None} for n in range(20)],
        **{name: [n % 2 for n in range(20)] for name in kinds},
    }
    features = datasets.Features({"image": datasets.Image(), **kinds})
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "pets"))
    config = DataConfig(source="hf", path=str(tmp_path / "pets"))
    with pytest.raises(ValueError, match=r"several columns of classes \(coarse, fine\)"):
        data.load(config, ModelConfig(shape=SHAPE, num_classes=2))
    assert len(data.load(config, PLAIN)) < 20


def test_unused_label_columns_are_noted(tmp_path: Path) -> None:
    for split in ("train", "test"):
        pictures = [png(picture(n)) for n in range(4)]
        columns = {"image": pictures, "class": [0, 1] * 2, "label": ["x", "y"] * 2}
        pq.write_table(pa.table(columns), tmp_path / f"{split}.parquet")
    config = DataConfig(source="parquet", path=str(tmp_path))
    source = data.load(config, ModelConfig(shape=SHAPE, num_classes=2))
    assert source.classes == ("x", "y")
    assert source.survey.notes == ("labels are column 'label', and nothing is read of class",)


def test_shard_without_the_column_is_named(tmp_path: Path) -> None:
    config = table(tmp_path, ("image",))
    pq.write_table(pa.table({"other": [1, 2]}), tmp_path / "train-2.parquet")
    message = r"train-2\.parquet has no column 'image' as .* has, it has: other; take the file away"
    with pytest.raises(ValueError, match=message):
        data.load(config, PLAIN)


def images(first: int, count: int = 12) -> NDArray[np.uint8]:
    return np.stack([picture(first + n) for n in range(count)])


def test_array_key_in_several_files_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "part-0.npz", images=images(0))
    np.savez(tmp_path / "part-1.npz", images=images(50))
    config = DataConfig(source="npz", path=str(tmp_path))
    with pytest.raises(ValueError, match=r"images of .*part-0\.npz and images of .*part-1\.npz"):
        data.load(config, PLAIN)
    (tmp_path / "part-1.npz").unlink()
    (tmp_path / "sub").mkdir()
    np.save(tmp_path / "sub" / "images.npy", images(50))
    with pytest.raises(ValueError, match=r"which could both be meant; .* set --data\.path to one"):
        data.load(config, PLAIN)


def test_column_chooses_arrays_of_other_names(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=images(0), samples=images(50), fid=np.zeros(3))
    config = DataConfig(source="npz", path=str(tmp_path / "a.npz"), memory_mb=0)
    with pytest.raises(ValueError, match="has both samples and x") as told:
        data.load(config, PLAIN)
    source = data.load(replace(config, column=chosen(told, "column")), PLAIN)
    assert np.array_equal(source.read(0)[0], pixels(50))
    assert source.survey.left_out[0].first == ("fid", "x")
    with pytest.raises(ValueError, match=r"has no array 'y', it has: fid, samples, x"):
        data.load(replace(config, column="y"), PLAIN)


@pytest.mark.parametrize("low", [0.0, 0.25])
@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16])
def test_floats_within_0_and_1_need_a_range(
    kind: type[np.floating], low: float, tmp_path: Path
) -> None:
    values = np.random.default_rng(0).random((40, *SHAPE)).clip(low, 1).astype(kind)
    values[0, 0, 0, :2] = low, 1
    np.savez(tmp_path / "a.npz", images=values)
    config = DataConfig(source="npz", path=str(tmp_path / "a.npz"), memory_mb=0)
    with pytest.raises(ValueError, match=r"all lie in \[0, 1\]") as told:
        data.load(config, PLAIN)
    assert chosen(told, "range") == "0..1"
    unit = data.load(replace(config, range="0..1"), PLAIN)
    first = unit.read(0)[0]
    assert first.dtype == np.float32
    assert (first.min(), first.max()) == (low * 2 - 1, 1)
    signed = data.load(replace(config, range="-1..1"), PLAIN)
    assert signed.read(0)[0].min() == low
    assert unit.fingerprint()["sha256"] != signed.fingerprint()["sha256"]


def test_wider_floats_and_vectors_need_no_range(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((3000, *SHAPE)).astype(np.float32)
    values[2500, 0, 0, 0] = -0.5
    np.save(tmp_path / "images.npy", values)
    config = DataConfig(source="npz", path=str(tmp_path), memory_mb=0)
    source = data.load(config, PLAIN)
    asked = data.load(replace(config, range="-1..1"), PLAIN)
    assert asked.fingerprint() == source.fingerprint()
    wrong = data.load(replace(config, range="0..1"), PLAIN)
    row = int(np.flatnonzero([n == 2500 for n in wrong.rows.rows])[0])  # type: ignore[attr-defined]
    with pytest.raises(CorruptRow, match=r"has pixels outside \[0, 1\]"):
        wrong.read(row)
    np.savez(tmp_path / "vectors.npz", x=np.abs(values[:, 0, 0, :2]))
    config = replace(config, path=str(tmp_path / "vectors.npz"))
    assert len(data.load(config, ModelConfig(shape=(2,)))) > 2000


@pytest.mark.parametrize(
    "choice", [{"column": "image"}, {"member": "png"}, {"range": "0..1"}], ids=str
)
def test_options_foreign_to_a_source_are_refused(
    choice: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    data.load(DataConfig(source="ring", **choice), ModelConfig(shape=(2,)))  # type: ignore[arg-type]
    assert f"data.{next(iter(choice))} has no effect: ring has no such choice" in caplog.text


def test_ambiguous_axes_are_noted(tmp_path: Path) -> None:
    for shape, told in (((9, 3, 8, 4), True), ((9, 3, 8, 8), False), ((9, 8, 8, 3), False)):
        np.savez(tmp_path / "a.npz", images=np.zeros(shape, np.uint8))
        source = data.load(DataConfig(source="npz", path=str(tmp_path / "a.npz")), PLAIN)
        note = f"images {shape} are read as (N, H, W, C), though they could be (N, C, H, W)"
        assert any(one.startswith(note) for one in source.survey.notes) == told
