"""Shards in an object store, over HTTP, from a server on this machine."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from aigc import data, models
from aigc.commands.inspect_data import command
from aigc.config import ModelConfig
from aigc.data._guess import guess
from aigc.data_report.report import inspect
from aigc.training.dataloader import BatchLoader
from tests.data.pictures import SHAPE, write
from tests.data.reading import Mapped, seen
from tests.s3 import s3_server

pytestmark = pytest.mark.process

MODEL = ModelConfig(shape=SHAPE, num_classes=3)


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    with s3_server() as bucket:
        yield bucket


@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
def test_shards_on_s3_equal_those_on_disk(kind: str, store: str, tmp_path: Path) -> None:
    import fsspec
    from torch.utils.data import DataLoader

    config = write(kind, tmp_path)
    fsspec.filesystem("s3").put(f"{tmp_path}/", f"{store}/{kind}/", recursive=True)
    local = data.load(config, MODEL)
    remote = data.load(replace(config, path=f"{store}/{kind}"), MODEL)
    assert len(remote) == len(local)
    assert np.array_equal(remote.order(1, 2), local.order(1, 2))
    assert seen(remote) == seen(local)
    prints = (source.fingerprint() for source in (local, remote))
    assert len({p["sha256"] for p in prints}) == 1
    order = remote.order(0, 0).tolist()
    loader = DataLoader(Mapped(remote), batch_size=None, sampler=order, num_workers=2)
    for row, (sample, label) in zip(order, loader, strict=True):
        assert np.array_equal(sample, local.read(row)[0])
        assert label == local.read(row)[1]


@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
def test_data_report_on_s3_equals_that_on_disk(kind: str, store: str, tmp_path: Path) -> None:
    import fsspec

    config = write(kind, tmp_path)
    fsspec.filesystem("s3").put(f"{tmp_path}/", f"{store}/said/{kind}/", recursive=True)
    remote = replace(config, path=f"{store}/said/{kind}")
    assert guess(remote.path) == guess(config.path)
    local, there = (inspect(c).report for c in (config, remote))
    assert there.rows == local.rows
    assert there.classes == local.classes
    assert there.pictures == local.pictures
    assert there.fingerprint["sha256"] == local.fingerprint["sha256"]


def test_unreachable_store_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import fsspec

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    fsspec.filesystem("s3").clear_instance_cache()
    for words in (["s3://bucket/x"], ["parquet", "s3://bucket/x"]):
        with pytest.raises(ValueError, match=r"s3://bucket/x does not answer: .*AWS_ENDPOINT_URL"):
            command(words)
    fsspec.filesystem("s3").clear_instance_cache()


def test_empty_prefix_is_refused(store: str) -> None:
    for path in (f"{store}/nothing", "s3://no-such-bucket/x"):
        with pytest.raises((ValueError, OSError), match=r"there is nothing at|cannot be opened"):
            guess(path)


@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
def test_store_lost_while_reading_is_one_sentence(
    kind: str, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec

    # No row is at fault, so none is skipped.
    shards = write(kind, tmp_path / "shards")
    config = replace(shards, memory_mb=0, loaders=1, on_error="skip")
    uri = f"{store}/gone-{kind}"
    fsspec.filesystem("s3").put(f"{tmp_path}/shards/", f"{uri}/", recursive=True)
    config = replace(config, path=uri)
    run = replace(models.preset("fc_gan:mlp"), model=MODEL, data=config, batch=4)
    source = data.load(config, MODEL)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # as the loader processes find it
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    feed = BatchLoader(run, source, rank=0, world_size=1, start=0, like=torch.zeros(1))
    with pytest.raises(OSError, match=uri) as caught:
        next(feed)
    assert "http://127.0.0.1:9" in str(caught.value)
    assert "Traceback" not in str(caught.value)
