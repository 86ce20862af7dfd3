"""Every data source keeps the contract; order without repeats; broken files refused by reason."""

import gzip
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aigc import data
from aigc.config import DataConfig, ModelConfig
from aigc.data import Dataset, rows, whole
from aigc.models import multimodal_vae, text_vae
from aigc.testing import source_checks
from tests.data.pictures import KINDS, SHAPE, write
from tests.data.rows import PAIRED, written
from tests.data.sounds import SHAPE as SOUND_SHAPE
from tests.data.sounds import recordings
from tests.data.tiny import idx, lines

IMAGE = ModelConfig(shape=(1, 28, 28))


def dtype(config: DataConfig, modality: str) -> type[np.generic]:
    if modality == "text":
        return np.int64
    return np.uint8 if config.source in KINDS else np.float32


def parts(split: Dataset, model: ModelConfig) -> dict[str, np.ndarray]:
    """Parts of rows, by modality."""
    several = split.samples.dtype.names is not None
    return {name: split.samples[name] if several else split.samples for name in model.shapes}


@pytest.fixture(
    params=[
        *("digits", "numbers", "ring", "surnames", "text", "spoken_digits", "audio"),
        "audio pieces",
        *("digits3", "paired"),
        *("idx", "idx zipped", *KINDS),
    ]
)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[DataConfig, ModelConfig]:
    name = request.param.split()[0]
    if name == "spoken_digits":
        pytest.importorskip("espeakng_loader", reason="the extra `speech` is not installed")
        return DataConfig(source=name), ModelConfig(shape=(1, 4096), num_classes=10)
    if name == "digits3":
        pytest.importorskip("espeakng_loader", reason="the extra `speech` is not installed")
        return DataConfig(source=name), multimodal_vae.Config(num_classes=10)
    if name == "paired":
        return written(tmp_path), PAIRED
    if name == "audio":
        pieces = "pieces" in request.param
        shape = (1, 200) if pieces else SOUND_SHAPE  # of 600 samples each
        config = replace(recordings(tmp_path), pieces=pieces)
        return config, ModelConfig(shape=shape, num_classes=2)
    if name in KINDS:
        return write(name, tmp_path), ModelConfig(shape=SHAPE, num_classes=3)
    if name == "idx":
        for split, n in (("train", 12), ("t10k", 6)):
            idx(tmp_path, split, n, zipped="zipped" in request.param)
        return DataConfig(source="idx", path=str(tmp_path)), IMAGE
    if name == "text":
        return lines(tmp_path), text_vae.Config(shape=(5,), vocabulary=4)
    models = {
        "ring": ModelConfig(shape=(2,)),
        "numbers": text_vae.Config(),
        "surnames": text_vae.Config(shape=(14,), vocabulary=27),
    }
    return DataConfig(source=name), models.get(name, IMAGE)


@pytest.mark.process
def test_source_keeps_the_contract(source: tuple[DataConfig, ModelConfig]) -> None:
    config, model = source
    checks = source_checks(config, model)
    assert [o for check in checks if (o := check.outcome()).status == "failed"] == []
    # Ours also use the range that there is, and have rows of every class in both splits.
    for split in map(whole, checks[0].subject.splits.values()):
        assert split.labels.dtype == np.int64
        assert set(split.labels) == set(range(len(split.classes) or 1))
        for modality, samples in parts(split, model).items():
            assert samples.dtype == dtype(config, modality)
            if modality in ("image", "audio"):
                most = 0.4 if config.pieces else 0.9  # pieces are as loud as they were
                assert data.scaled(samples).min() < -most
                assert data.scaled(samples).max() > most
        assert len(split) in split.survey.splits.values()
        if split.classes:
            assert np.array_equal(split.survey.labels, split.labels)


def test_every_source_is_under_contract() -> None:
    ours = ("audio", "digits", "idx", "numbers", "ring", "spoken_digits", "surnames", "text")
    assert data.names() == sorted([*ours, *data.PAIRED, *KINDS])


def test_fingerprint_covers_one_pixel_and_one_label() -> None:
    dataset = data.load(DataConfig(), IMAGE)
    pixels, labels = dataset.samples.copy(), dataset.labels.copy()
    pixels[7, 0, 3, 3] += 0.01
    labels[7] += 1
    prints = {
        d.fingerprint()["sha256"]
        for d in (dataset, replace(dataset, samples=pixels), replace(dataset, labels=labels))
    }
    assert len(prints) == 3


def test_digits_split_is_stratified_and_fixed() -> None:
    train, test = (data.load(DataConfig(), IMAGE, split) for split in ("train", "test"))
    assert (len(train), len(test)) == (1437, 360)
    assert np.bincount(test.labels).min() >= 35
    assert data.load(DataConfig(), IMAGE, "test").samples.tobytes() == test.samples.tobytes()
    shares = [np.bincount(split.labels) / len(split) for split in (train, test)]
    assert np.abs(shares[0] - shares[1]).max() < 0.005


def test_digits_split_is_golden() -> None:
    found = [
        data.load(DataConfig(), ModelConfig(shape=(1, 8, 8)), split).fingerprint()["sha256"]
        for split in ("train", "test")
    ]
    assert found == [
        "55e0c6d103ab61a375a64e2596ef6b9c2e444eba0ceb6a246b958a6f2127bba3",
        "8451419377763f8fcba83256f37550e90bff6ea18bdb8fb84101997f065baa45",
    ]


def test_digits_are_resized_to_the_model() -> None:
    small = data.load(DataConfig(), ModelConfig(shape=(1, 8, 8)))
    assert set(np.unique(np.round((small.samples + 1) * 8, 4))) == set(range(17))
    assert data.load(DataConfig(), ModelConfig(shape=(1, 32, 20))).samples.shape[1:] == (1, 32, 20)


def test_mnist_loads(mnist10k: Path) -> None:
    config = DataConfig(source="idx", path=str(mnist10k))
    train, test = (data.load(config, IMAGE, split) for split in ("train", "test"))
    assert (len(train), len(test)) == (9000, 1000)
    assert ((train.samples + 1) / 2).mean() == pytest.approx(0.131, abs=0.003)


def test_epochs_are_different_permutations() -> None:
    first, second = rows(0, 0, 100, 100), rows(0, 100, 200, 100)
    assert sorted(first) == sorted(second) == list(range(100))
    assert list(first) != list(second)
    assert list(rows(1, 0, 100, 100)) != list(first)


def test_order_is_independent_of_chunking() -> None:
    whole = rows(3, 0, 1000, 77)
    parts = [rows(3, start, min(start + 64, 1000), 77) for start in range(0, 1000, 64)]
    assert list(np.concatenate(parts)) == list(whole)
    assert list(rows(3, 500, 700, 77)) == list(whole[500:700])  # a batch over several epochs


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def wrong_magic(path: Path) -> None:
    path.write_bytes(b"\0\0\x0d" + path.read_bytes()[3:])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def badly_zipped(path: Path) -> None:
    zipped = bytearray(gzip.compress(path.read_bytes()))
    zipped[12:20] = b"\xff" * 8
    path.with_suffix(".gz").write_bytes(zipped)
    path.unlink()


def half_zipped(path: Path) -> None:
    path.with_suffix(".gz").write_bytes(gzip.compress(path.read_bytes())[:-9])
    path.unlink()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut, "it is cut off or empty"),
        (wrong_magic, "no IDX file of unsigned bytes"),
        (empty, "no IDX file of unsigned bytes"),
        (half_zipped, "no whole gzip file"),
        (badly_zipped, "no whole gzip file"),
        (Path.unlink, "holds neither train-images-idx3-ubyte nor"),
        (
            lambda path: path.rename(path.with_name(f"emnist-letters-{path.name}")),
            "rename what is meant by it to train-images-idx3-ubyte, or",
        ),
    ],
)
def test_broken_idx_file_is_refused(
    damage: Callable[[Path], None], reason: str, tmp_path: Path
) -> None:
    idx(tmp_path, "train", 6)
    damage(tmp_path / "train-images-idx3-ubyte")
    with pytest.raises(ValueError, match=reason):
        data.load(DataConfig(source="idx", path=str(tmp_path)), IMAGE)


def test_differing_idx_counts_are_refused(tmp_path: Path) -> None:
    idx(tmp_path, "train", 6)
    labels = tmp_path / "train-labels-idx1-ubyte"
    labels.write_bytes(struct.pack(">4BI", 0, 0, 8, 1, 5) + b"\0" * 5)
    with pytest.raises(ValueError, match="6 train images but 5 labels"):
        data.load(DataConfig(source="idx", path=str(tmp_path)), IMAGE)


@pytest.mark.parametrize(
    ("config", "model", "message"),
    [
        (DataConfig(source="digit"), IMAGE, "did you mean 'digits'"),
        (DataConfig(source="idx"), IMAGE, "set --data.path DIR"),
        (DataConfig(source="ring"), IMAGE, "take fc_gan:ring"),
        (DataConfig(), ModelConfig(shape=(3, 28, 28)), "set --model.shape 1 8 8"),
        (DataConfig(), ModelConfig(num_classes=7), "set --model.num-classes 10 or 0"),
        (DataConfig(source="numbers"), text_vae.Config(vocabulary=9), "set --model.vocabulary 22"),
        (DataConfig(source="numbers"), text_vae.Config(shape=(42,)), "set --model.shape 43"),
        (DataConfig(source="numbers"), ModelConfig(shape=(44,)), "take another model"),
        (DataConfig(), text_vae.Config(shape=(9,)), "set --model.shape 1 8 8"),
        (DataConfig(source="text"), text_vae.Config(), "set --data.path PATH"),
        (DataConfig(source="digits3"), IMAGE, "wants image in a row, .*'digits3' gives"),
        (DataConfig(), PAIRED, "wants image and text and audio in a row,.*take data digits3 or"),
        (DataConfig(source="paired"), PAIRED, "set --data.path PATH"),
        (DataConfig(source="folder"), IMAGE, "set --data.path DIR"),
        (DataConfig(source="audio"), ModelConfig(shape=SOUND_SHAPE), "set --data.path DIR"),
        (DataConfig(source="spoken_digits"), IMAGE, r"sound of shape \(1, samples\)"),
        (DataConfig(source="parquet"), IMAGE, "set --data.path PATH"),
        (DataConfig(source="webdataset", path="nowhere"), IMAGE, "holds no .tar file"),
    ],
)
def test_source_config_errors_name_the_fix(
    config: DataConfig, model: ModelConfig, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        data.load(config, model)


def test_dataset_counts_its_samples() -> None:
    dataset = Dataset(
        name="x", samples=np.zeros((3, 2), np.float32), labels=np.zeros(3, np.int64), classes=("a",)
    )
    assert len(dataset) == 3
