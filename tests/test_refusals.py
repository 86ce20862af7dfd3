"""Stores that refuse: one sentence for data, artifacts and runs alike, with the URI in it."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest

from aigc import data, models
from aigc.artifact import Artifact, Store
from aigc.artifact.store import store_errors
from aigc.commands.runs import summaries
from aigc.config import DataConfig
from aigc.training.lease import Lease
from aigc.training.object_store import ObjectStore
from tests import disks

pytestmark = pytest.mark.process

MODEL = models.preset("dcgan:digits").model


def images(uri: str, folder: Path, sealed: Path) -> None:
    data.load(DataConfig(source="parquet", path=uri), MODEL)


def shards(uri: str, folder: Path, sealed: Path) -> None:
    data.load(DataConfig(source="webdataset", path=uri), MODEL)


def artifact(uri: str, folder: Path, sealed: Path) -> None:
    Artifact.open(f"{uri}/digits")


def publish(uri: str, folder: Path, sealed: Path) -> None:
    Store(uri).publish(sealed)


def pull(uri: str, folder: Path, sealed: Path) -> None:
    ObjectStore(f"{uri}/run", folder).pull()


def lease(uri: str, folder: Path, sealed: Path) -> None:
    with Lease(f"{uri}/run", lost=pytest.fail):
        pass


def listing(uri: str, folder: Path, sealed: Path) -> None:
    summaries(uri)


USES = [images, shards, artifact, publish, pull, lease, listing]
REFUSALS = {
    "nobody": r"refuses: .*credentials; set AWS_ACCESS_KEY_ID",
    "dead": r"does not answer: .*; check AWS_ENDPOINT_URL",
    "absent": r"bucket",
}


@pytest.fixture
def refusing(
    request: pytest.FixtureRequest, s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[str]:
    """The URI of a store that refuses in one way."""
    pytest.importorskip("s3fs")
    uri = "s3://bucket/prefix"
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    if request.param == "nobody":
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    elif request.param == "dead":
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        monkeypatch.setattr("s3fs.core.S3FileSystem.retries", 1)
    else:
        uri = "s3://there-is-no-such-bucket/prefix"
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    yield uri
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.mark.parametrize("refusing", REFUSALS, indirect=True)
@pytest.mark.parametrize("use", USES, ids=lambda use: use.__name__)
def test_store_refusal_is_one_sentence(
    use: Callable[[str, Path, Path], None],
    refusing: str,
    tmp_path: Path,
    sealed: Path,
    request: pytest.FixtureRequest,
) -> None:
    kind = request.node.callspec.params["refusing"]
    with pytest.raises((OSError, ValueError)) as caught:
        use(refusing, tmp_path / "local", sealed)
    said = str(caught.value)
    assert refusing in said or refusing.split("/")[2] in said
    assert re.search(REFUSALS[kind], said), said
    assert "\n" not in said
    assert "[Errno" not in said


@pytest.mark.parametrize(
    "raised", [FileNotFoundError, PermissionError, FileExistsError, TimeoutError, OSError]
)
def test_os_error_keeps_its_class(raised: type[OSError]) -> None:
    with pytest.raises(raised, match=r"s3://bucket/x .*") as caught, store_errors("s3://bucket/x"):
        raise raised
    assert type(caught.value) is raised
    with pytest.raises(raised) as caught, store_errors("a/folder"):
        raise raised("as it is")
    assert str(caught.value) == "as it is"


def test_local_and_foreign_errors_pass_unchanged() -> None:
    full = OSError(28, "No space left on device")
    missing = FileNotFoundError(2, "No such file or directory", "/here")
    for error in (full, missing, ValueError("no image"), KeyError("x")):
        with pytest.raises(type(error)) as caught, store_errors("s3://bucket/x"):
            raise error
        assert caught.value is error


def test_full_or_read_only_disk_is_one_sentence(tmp_path: Path, sealed: Path) -> None:
    with disks.small_disk(tmp_path / "disk") as disk:
        filler = disks.fill(disk)
        with pytest.raises(OSError, match=r"No space left on device") as caught:
            Store(disk / "store").publish(sealed)
        assert "('" not in str(caught.value)
        filler.unlink()
        disks.remount(disk, "ro")
        with pytest.raises(OSError, match=r"Read-only file system: '.*/disk/"):
            Store(disk / "store").publish(sealed)
        disks.remount(disk, "rw")
    assert not (tmp_path / "disk" / "store").exists()
