"""Shards in an object store, over HTTP, from a server on this machine."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aigc import data
from aigc.config import ModelConfig
from tests.data.pictures import SHAPE, write
from tests.data.test_rows import _Mapped, seen
from tests.s3 import s3_server

pytestmark = pytest.mark.process

MODEL = ModelConfig(shape=SHAPE, num_classes=3)


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    with s3_server() as bucket:
        yield bucket


@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
def test_shards_in_a_store_are_those_on_disk(kind: str, store: str, tmp_path: Path) -> None:
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
    loader = DataLoader(_Mapped(remote), batch_size=None, sampler=order, num_workers=2)
    for row, (sample, label) in zip(order, loader, strict=True):
        assert np.array_equal(sample, local.read(row)[0])
        assert label == local.read(row)[1]
