"""Every source gives the same rows; order by shards; corrupt rows stop the run or are replaced."""

import logging
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigc import data
from aigc.config import DataConfig, ModelConfig
from aigc.data import CorruptRow, read, rows, whole
from aigc.data._shards import shard_order
from aigc.data._splits import held_out
from tests.data.pictures import KINDS, SHAPE, picture, pictures, png, tar, write
from tests.data.reading import Mapped, seen

MODEL = ModelConfig(shape=SHAPE, num_classes=3)
SHARDED = ("parquet", "webdataset")


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_format_yields_the_same_rows(split: str, tmp_path: Path) -> None:
    found = []
    for kind in KINDS:
        (tmp_path / kind).mkdir()
        found.append(seen(data.load(write(kind, tmp_path / kind), MODEL, split)))
    wanted = range(13) if split == "train" else range(100, 106)
    assert found[0] == {(picture(n).transpose(2, 0, 1).tobytes(), n % 3) for n in wanted}
    assert all(one == found[0] for one in found)


@pytest.mark.parametrize("kind", KINDS)
def test_memory_mapped_and_loaded_data_are_equal(kind: str, tmp_path: Path) -> None:
    config = write(kind, tmp_path)
    due, held = data.load(config, MODEL), data.load(replace(config, memory_mb=1), MODEL)
    assert not isinstance(due, data.Dataset)
    assert isinstance(held, data.Dataset)
    assert held.fingerprint() == due.fingerprint()
    assert held.fingerprint()["classes"] == list(due.classes)
    assert all(np.array_equal(held.samples[row], due.read(row)[0]) for row in range(len(due)))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in SHARDED])
def test_fingerprint_covers_pixels_labels_and_size(kind: str, tmp_path: Path) -> None:
    splits = {"train": pictures("train"), "test": pictures("test")}
    pixels = picture(3)
    pixels[4, 4, 1] ^= 1
    other_pixel, other_label = splits["train"].copy(), splits["train"].copy()
    other_pixel[3] = png(pixels), 0
    other_label[3] = splits["train"][3][0], 1
    prints = set()
    for number, train in enumerate((splits["train"], other_pixel, other_label)):
        folder = tmp_path / str(number) / "same"
        folder.mkdir(parents=True)
        config = write(kind, folder, splits | {"train": train})
        prints.add(data.load(config, MODEL).fingerprint()["sha256"])
        prints.add(data.load(config, ModelConfig(shape=(3, 4, 4))).fingerprint()["sha256"])
    assert len(prints) == 6


COUNTS = st.lists(st.integers(1, 9), min_size=1, max_size=7).map(tuple)


@given(COUNTS, st.integers(0, 2**63 - 1), st.integers(0, 99))
def test_epoch_visits_each_row_once_shard_by_shard(
    counts: tuple[int, ...], seed: int, epoch: int
) -> None:
    order = shard_order(seed, epoch, counts)
    assert sorted(order) == list(range(sum(counts)))
    shards = np.searchsorted(np.cumsum(counts), order, side="right")
    changes = int((np.diff(shards) != 0).sum())
    assert changes == len(counts) - 1
    shard_order.cache_clear()
    assert np.array_equal(shard_order(seed, epoch, counts), order)


def test_epochs_permute_shards_and_rows_anew() -> None:
    counts = (20,) * 12
    orders = [shard_order(7, epoch, counts) for epoch in range(6)]
    firsts = {int(order[0]) // 20 for order in orders}
    assert len(firsts) > 1
    within = {tuple(order[order // 20 == 3] % 20) for order in orders}
    assert len(within) == 6


@given(st.integers(0, 40), st.integers(1, 40), COUNTS)
def test_order_of_any_range_is_a_slice_of_the_whole(
    start: int, length: int, counts: tuple[int, ...]
) -> None:
    def order(seed: int, epoch: int) -> np.ndarray:
        return shard_order(seed, epoch, counts)

    run = rows(1, 0, 80, sum(counts), order)
    assert np.array_equal(
        rows(1, start, start + length, sum(counts), order), run[start : start + length]
    )


@given(st.text(max_size=8), st.integers(1, 300), st.integers(1, 300))
def test_rows_stay_in_their_split_as_data_grow(name: str, few: int, more: int) -> None:
    assert np.array_equal(held_out(name, few + more)[:few], held_out(name, few))


def test_about_a_tenth_is_held_out() -> None:
    assert held_out("x", 10_000).mean() == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_single_split_is_divided_in_two(kind: str, tmp_path: Path) -> None:
    many = [(png(picture(n)), n % 3) for n in range(60)]
    config = write(kind, tmp_path, {"all" if kind != "hf" else "train": many})
    if kind == "folder":
        config = replace(config, path=str(tmp_path / "all"))
    if kind == "npz":
        arrays = np.load(tmp_path / "pets.npz")
        plain = {key.removeprefix("all_"): arrays[key] for key in arrays.files}
        np.savez(tmp_path / "pets.npz", allow_pickle=False, **plain)
    train, test = (data.load(config, MODEL, split) for split in ("train", "test"))
    assert len(train) + len(test) == 60
    assert 0 < len(test) < 20
    assert not seen(train) & seen(test)
    assert train.fingerprint() != test.fingerprint()


BROKEN = {
    "cut off": (png(picture(2))[:70], 2),
    "no picture": (b"nothing", 2),
    "label out of range": (png(picture(2)), -1),
}


def damaged(kind: str, damage: str, folder: Path) -> DataConfig:
    """Row 2 of the training split is bad."""
    train = pictures("train")
    train[2] = BROKEN[damage]
    if kind == "npz":
        config = write(kind, folder)
        arrays = dict(np.load(config.path))
        arrays["train_labels"][2] = -1
        np.savez(config.path, allow_pickle=False, **arrays)
        return config
    if kind == "hf":
        train = [(content, label if label != -1 else None) for content, label in train]
    return write(kind, folder, {"train": train, "test": pictures("test")})


@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        (kind, damage)
        for kind in KINDS
        for damage in BROKEN
        if (kind != "npz" or damage == "label out of range")
        and (kind != "folder" or damage != "label out of range")
    ],
)
def test_corrupt_row_stops_the_run_or_is_replaced_by_the_next(
    kind: str, damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = damaged(kind, damage, tmp_path)
    source = data.load(config, MODEL)
    bad = []
    for row in range(len(source)):
        try:
            source.read(row)
        except CorruptRow as error:
            bad.append((row, str(error)))
    [(row, reason)] = bad
    assert str(tmp_path) in reason
    with pytest.raises(CorruptRow, match=r"set --data.on-error skip"):
        read(source, row, "stop")
    sample, label, why = read(source, row, "skip")
    wanted = source.read((row + 1) % len(source))
    assert why == reason
    assert np.array_equal(sample, wanted[0])
    assert label == wanted[1]
    assert read(source, (row + 1) % len(source), "stop")[2] is None
    with pytest.raises(CorruptRow, match=r"set --data.on-error skip"):
        whole(source)
    with caplog.at_level(logging.WARNING):
        held = data.load(replace(config, memory_mb=1, on_error="skip"), MODEL)
    assert isinstance(held, data.Dataset)
    assert held.skipped == (reason,)
    assert "1 rows of" in caplog.text
    assert np.array_equal(held.samples[row], wanted[0])
    assert len(held) == len(source)


def test_skip_refuses_data_without_a_readable_row(tmp_path: Path) -> None:
    bad = [(b"nothing", n % 3) for n in range(4)]
    source = data.load(write("parquet", tmp_path, {"train": bad, "test": bad}), MODEL)
    with pytest.raises(CorruptRow, match=r"no row of data .* can be read; of one: row"):
        read(source, 1, "skip")


def test_missing_tar_members_make_corrupt_rows(tmp_path: Path) -> None:
    train = pictures("train")
    train[1] = train[1][0], None
    config = write("webdataset", tmp_path, {"train": train, "test": pictures("test")})
    source = data.load(config, MODEL)
    with pytest.raises(CorruptRow, match=r"0001 in .*tar has no label; labels are in \[0, 3\)"):
        whole(source)


def test_truncated_tar_keeps_its_whole_rows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for split in ("train", "test"):
        tar(tmp_path / f"{split}.tar", pictures(split))
    content = (tmp_path / "train.tar").read_bytes()
    (tmp_path / "train.tar").write_bytes(content[: 512 * 20 + 100])
    config = DataConfig(source="webdataset", path=str(tmp_path), memory_mb=0)
    with caplog.at_level(logging.WARNING):
        source = data.load(config, MODEL)
    assert "train.tar is cut off after" in caplog.text
    assert 0 < len(source) < 13
    assert source.read(0)[0].tobytes() == picture(0).transpose(2, 0, 1).tobytes()


def test_tar_index_follows_changes_of_the_tar(tmp_path: Path) -> None:
    config = write("webdataset", tmp_path)
    before = data.load(config, MODEL)
    assert data.load(config, MODEL).fingerprint() == before.fingerprint()
    tar(tmp_path / "train-00000.tar", pictures("train")[:2])
    assert len(data.load(config, MODEL)) == len(before) - 3


@pytest.mark.process
@pytest.mark.parametrize("kind", KINDS)
def test_loader_processes_read_equal_rows(kind: str, tmp_path: Path) -> None:
    from torch.utils.data import DataLoader

    source = data.load(write(kind, tmp_path), MODEL)
    source.read(0)  # the parent has a shard open when it forks
    order = source.order(0, 0).tolist()
    loader = DataLoader(
        Mapped(source),
        batch_size=None,
        sampler=order,
        num_workers=2,
        multiprocessing_context="fork",
    )
    for row, (sample, label) in zip(order, loader, strict=True):
        wanted = source.read(row)
        assert np.array_equal(sample, wanted[0])
        assert label == wanted[1]
    assert seen(pickle.loads(pickle.dumps(source))) == seen(source)


def test_pictures_without_labels_are_read(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"{number}.png").write_bytes(png(picture(number)))
    config = DataConfig(source="folder", path=str(tmp_path), memory_mb=0)
    source = data.load(config, ModelConfig(shape=SHAPE))
    assert source.classes == ()
    assert source.read(0)[1] == 0
    with pytest.raises(ValueError, match=r"has no labels; set --model.num-classes 0"):
        data.load(config, MODEL)
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "0.png").write_bytes(png(picture(99)))
    with pytest.raises(ValueError, match="in sub-folders and beside them"):
        data.load(config, ModelConfig(shape=SHAPE))


def test_float_arrays_are_not_rescaled(tmp_path: Path) -> None:
    points = np.random.default_rng(0).normal(size=(40, 2))
    np.save(tmp_path / "x_train.npy", points)
    np.save(tmp_path / "x_test.npy", points[:3] + 1)
    config = DataConfig(source="npz", path=str(tmp_path), memory_mb=0)
    source = data.load(config, ModelConfig(shape=(2,)))
    assert np.array_equal(source.read(7)[0], points[7].astype(np.float32))
    points[7, 1] = np.nan
    np.save(tmp_path / "x_train.npy", points)
    with pytest.raises(CorruptRow, match=r"row 7 of x_train in .* is not finite"):
        whole(data.load(config, ModelConfig(shape=(2,))))
    with pytest.raises(ValueError, match=r"or floating-point samples of the model's shape \(3,\)"):
        data.load(config, ModelConfig(shape=(3,)))


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("npz", "pets.npz", "is no whole archive of plain arrays"),
        ("parquet", "train-00000.parquet", "is no whole parquet file"),
        ("webdataset", "train-00000.tar", "is no plain tar file"),
        ("hf", "pets/train/state.json", "is no data set that save_to_disk wrote"),
    ],
)
def test_file_of_another_kind_is_refused(
    kind: str, name: str, message: str, tmp_path: Path
) -> None:
    config = write(kind, tmp_path)
    (tmp_path / name).write_bytes(b"something else" * 99)
    with pytest.raises(ValueError, match=message):
        data.load(config, MODEL)


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.array([{"a": 1}], object))
    config = DataConfig(source="npz", path=str(tmp_path / "x.npz"))
    with pytest.raises(ValueError, match="no whole archive of plain arrays"):
        data.load(config, MODEL)


def test_path_without_effect_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    data.load(DataConfig(path="somewhere"), ModelConfig(shape=(1, 8, 8)))
    assert "data.path 'somewhere' has no effect: digits reads no files" in caplog.text
