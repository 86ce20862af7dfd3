"""The store: versions are immutable, a name alone is the newest, nothing half-written is seen."""

import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fsspec.core import url_to_fs

from aigc.artifact import Artifact, ArtifactError, Store
from aigc.artifact.manifest import parse, seal
from aigc.artifact.store import SCHEMES, check_location, locate


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "local":
        yield Store(tmp_path / "store")
    else:
        uri = f"memory://{uuid.uuid4().hex}"
        yield Store(uri)
        fs, root = url_to_fs(uri)
        if fs.exists(root):
            fs.rm(root, recursive=True)


@pytest.fixture
def build(sealed: Path, tmp_path: Path) -> "Build":
    return Build(sealed, tmp_path)


class Build:
    """Sealed folders of any name and version."""

    def __init__(self, sealed: Path, folder: Path) -> None:
        self.sealed, self.folder = sealed, folder

    def __call__(self, name: str, version: str, note: str = "") -> Path:
        path = self.folder / f"build-{name}-{version}-{note}"
        shutil.copytree(self.sealed, path)
        if note:
            (path / "note.txt").write_text(note)
        manifest = parse((path / "manifest.json").read_bytes())
        seal(path, replace(manifest, name=name, version=version))
        return path


def test_published_artifact_resolves_by_name_version_and_uri(store: Store, build: Build) -> None:
    uri = store.publish(build("digits", "1"))
    assert uri == f"{store.uri}/digits/1"
    expected = Artifact.open(build.sealed).sample(seed=0, n=2)["image"]
    for where in (uri, f"{store.uri}/digits", f"{store.uri}/digits@1", f"{uri}/"):
        opened = Artifact.open(where)
        assert opened.id == "digits@1"
        assert np.array_equal(opened.sample(seed=0, n=2)["image"], expected)


@pytest.mark.parametrize(
    "versions", [["1", "2", "9", "10"], ["1.2", "1.10", "2.0"], ["0.9", "0.9.1", "0.10"]]
)
def test_bare_name_resolves_to_the_newest_version(
    store: Store, build: Build, versions: list[str]
) -> None:
    for version in reversed(versions):
        store.publish(build("digits", version))
    assert store.versions("digits") == versions
    assert store.resolve("digits") == f"{store.uri}/digits/{versions[-1]}"
    assert store.resolve(f"digits@{versions[0]}") == f"{store.uri}/digits/{versions[0]}"
    assert locate(f"{store.uri}/digits").endswith(f"/digits/{versions[-1]}")


def test_versions_are_immutable(store: Store, build: Build) -> None:
    uri = store.publish(build("digits", "1"))
    before = Artifact.open(uri).manifest.digest
    with pytest.raises(ArtifactError, match=r"digits@1 exists already .*the next free one is 2"):
        store.publish(build("digits", "1", note="other"))
    assert Artifact.open(uri).manifest.digest == before


def test_next_version_follows_the_newest(store: Store, build: Build) -> None:
    assert store.next_version("digits") == "1"
    store.publish(build("digits", "9"))
    store.publish(build("digits", "10.3"))
    assert store.next_version("digits") == "11"


def test_names_lists_complete_versions_only(store: Store, build: Build) -> None:
    assert store.names() == []
    store.publish(build("b", "1"))
    store.publish(build("a", "1"))
    assert store.names() == ["a", "b"]


def test_unknown_names_and_versions_list_what_exists(store: Store, build: Build) -> None:
    with pytest.raises(ArtifactError, match=r"no artifact 'digits' in .*; there are: none"):
        store.resolve("digits")
    store.publish(build("digits", "1"))
    store.publish(build("digits", "2"))
    with pytest.raises(ArtifactError, match=r"no artifact 'digit' in .*; there are: digits"):
        store.resolve("digit")
    with pytest.raises(ArtifactError, match=r"has no version '3', it has: 1, 2"):
        store.resolve("digits@3")
    with pytest.raises(ArtifactError, match="artifact name must be"):
        store.resolve("../digits")
    with pytest.raises(ArtifactError, match=r"has no version '\.\./\.\.'"):
        store.resolve("digits@../..")


@pytest.mark.parametrize("where", ["nowhere", "digits/7", "digits@7", "Digits", "a b"])
def test_place_without_artifact_is_refused(store: Store, build: Build, where: str) -> None:
    store.publish(build("digits", "1"))
    with pytest.raises(ArtifactError, match=r"no artifact|no version|holds no manifest"):
        Artifact.open(f"{store.uri}/{where}")


@pytest.mark.parametrize("written", range(6))
def test_interrupted_upload_is_invisible_and_repeatable(
    written: int, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks after `written` of the claim and the five files."""
    folder, store = build("digits", "1"), Store(f"memory://{uuid.uuid4().hex}")
    fs, root = url_to_fs(store.uri)
    upload, left = fs.pipe_file, iter(range(written))

    def cut(path: str, data: bytes, **mode: str) -> None:
        if next(left, None) is None:
            raise ConnectionError
        upload(path, data, **mode)

    with monkeypatch.context() as network:
        network.setattr(fs, "pipe_file", cut)
        with pytest.raises(ConnectionError):
            store.publish(folder)
    unpublished(store)
    assert Artifact.open(store.publish(folder)).id == "digits@1"
    fs.rm(root, recursive=True)


def test_interrupted_copy_is_invisible_and_repeatable(
    tmp_path: Path, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, store = build("digits", "1"), Store(tmp_path / "store")

    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as power:
        power.setattr(Path, "rename", cut)  # the last thing that it does
        with pytest.raises(KeyboardInterrupt):
            store.publish(folder)
    unpublished(store)
    assert list((tmp_path / "store" / "digits").iterdir()) == []
    assert Artifact.open(store.publish(folder)).id == "digits@1"


def unpublished(store: Store) -> None:
    assert store.versions("digits") == []
    assert store.names() == []
    with pytest.raises(ArtifactError, match="no artifact 'digits'"):
        store.resolve("digits")


def test_manual_copy_without_manifest_is_no_version(tmp_path: Path, build: Build) -> None:
    store = Store(tmp_path / "store")
    half = tmp_path / "store" / "digits" / "1"
    half.mkdir(parents=True)
    (half / "generator.onnx").write_bytes(b"half")
    assert store.versions("digits") == []
    store.publish(build("digits", "1"))
    Artifact.open(half)


def test_publish_refuses_an_unsealed_folder(store: Store, build: Build, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"holds no manifest.json"):
        store.publish(tmp_path)
    altered = build("digits", "1")
    path = altered / "manifest.json"
    path.write_text(path.read_text().replace("Apache-2.0", "MIT"))
    with pytest.raises(ArtifactError, match="altered"):
        store.publish(altered)
    assert store.names() == []


def test_one_of_two_concurrent_publications_wins_whole(tmp_path: Path, build: Build) -> None:
    store = Store(tmp_path / "store")
    folders = [build("digits", "1", note) for note in ("first", "second")]
    for attempt in range(10):
        barrier = threading.Barrier(2)
        outcomes: list[str] = []
        refusals: list[str] = []

        def work(
            folder: Path,
            barrier: threading.Barrier = barrier,
            outcomes: list[str] = outcomes,
            refusals: list[str] = refusals,
        ) -> None:
            barrier.wait()
            try:
                store.publish(folder)
                outcomes.append((folder / "note.txt").read_text())
            except ArtifactError as error:
                refusals.append(str(error))

        threads = [threading.Thread(target=work, args=(f,)) for f in folders]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(outcomes) == 1, f"attempt {attempt}: {outcomes} were published"
        assert len(refusals) == 1
        assert "never change" in refusals[0]
        published = tmp_path / "store" / "digits" / "1"
        Artifact.open(published, verify=False)
        assert (published / "note.txt").read_text() == outcomes[0]
        leftovers = [p.name for p in published.parent.iterdir() if p.name != "1"]
        assert leftovers == []
        shutil.rmtree(published)


def test_published_version_is_world_readable(tmp_path: Path, build: Build) -> None:
    folder = build("digits", "1")
    folder.chmod(0o700)
    published = Path(Store(tmp_path / "store").publish(folder))
    assert published.stat().st_mode & 0o055 == 0o055


def test_publishers_of_one_version_do_not_mix(build: Build) -> None:
    folder, store = build("digits", "1"), Store(f"memory://{uuid.uuid4().hex}")
    fs, root = url_to_fs(store.uri)
    claim = f"{root}/digits/1/publishing"
    fs.pipe_file(claim, str(time.time()).encode())
    with pytest.raises(ArtifactError, match="being published by another process; if that has died"):
        store.publish(folder)
    assert store.versions("digits") == []
    fs.pipe_file(claim, str(time.time() - 3600).encode())  # that one died
    store.publish(folder)
    assert store.versions("digits") == ["1"]
    assert not fs.exists(claim)


NAMES = (
    "1",
    "1.0",
    "007",
    "latest",
    "manifest.json",
    "model.sig",
    "publishing",
    "a.b-c_d",
    "x" * 64,
)
"""Names that look like versions, files of artifacts or objects of the store."""


@pytest.mark.parametrize("name", NAMES)
def test_exportable_names_resolve(store: Store, build: Build, name: str) -> None:
    for version in ("1", "2"):
        store.publish(build(name, version))
    store.publish(build("digits", "1"))
    assert store.names() == sorted(["digits", name])
    for where in (name, f"{name}@2", f"{name}/2"):
        opened = Artifact.open(f"{store.uri}/{where}", verify=False)
        assert opened.id == f"{name}@2"
    assert locate(f"{store.uri}/{name}/1").endswith(f"/{name}/1")
    assert Artifact.open(f"{store.uri}/digits", verify=False).id == "digits@1"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "A", "ä", "١", "a b", "a/b", "a@1", "-a", "x" * 65, "²"]
)
def test_invalid_name_is_refused_before_export(name: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="artifact name must be"):
        Store(tmp_path).check_free(name, "1")


@pytest.mark.parametrize("version", ["", "v1", "1.", "١", "1.2.3.4.5", "1" * 10, "latest", "²"])
def test_invalid_version_is_refused(version: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="version must be whole numbers"):
        Store(tmp_path).check_free("digits", version)


def test_number_without_a_name_is_a_missing_version(store: Store, build: Build) -> None:
    store.publish(build("digits", "1"))
    with pytest.raises(ArtifactError, match="digits/7 is no artifact: it holds no manifest"):
        locate(f"{store.uri}/digits/7")


def test_versions_and_names_may_be_links(tmp_path: Path, build: Build) -> None:
    """A new version may be put in place by renaming a link."""
    elsewhere = Store(tmp_path / "elsewhere")
    elsewhere.publish(build("digits", "1"))
    elsewhere.publish(build("faces", "3"))
    root = tmp_path / "store"
    (root / "digits").mkdir(parents=True)
    (root / "digits" / "1").symlink_to(tmp_path / "elsewhere" / "digits" / "1")
    (root / "faces").symlink_to("../elsewhere/faces")
    (root / "digits" / "2").symlink_to("nowhere")
    (root / "digits" / "3").symlink_to(root / "digits" / "3")
    (root / "file").symlink_to(root / "digits" / "1" / "manifest.json")
    store = Store(root)
    assert store.names() == ["digits", "faces"]
    assert store.versions("digits") == ["1"]
    assert Artifact.open(root / "digits").id == "digits@1"
    assert Artifact.open(root / "faces@3", verify=False).id == "faces@3"
    (tmp_path / "linked").symlink_to(root)
    assert locate(tmp_path / "linked" / "faces").endswith("/faces/3")


@pytest.mark.parametrize(
    "uri",
    [
        "artifacts/digits",
        "/data/artifacts/digits@3",
        "$AIGC_STORE/digits/1",
        "file:///data/digits/1",
        "s3://models/digits/3",
        "gs://models/digits",
        "az://models/digits",
        "abfss://models@account.dfs.core.windows.net/digits",
        "a:b/digits",
    ],
)
def test_folders_and_object_stores_are_places(uri: str) -> None:
    check_location(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "http://10.0.0.1/x",
        "https://example.org/x",
        "HTTP://10.0.0.1/x",
        "S3://models/digits",
        "reference::/file.json",
        "reference::s3://models/refs.json",
        "simplecache::http://10.0.0.1/x",
        "filecache::s3://models/digits",
        "blockcache::s3://models/digits",
        "zip://digits::http://10.0.0.1/x.zip",
        "s3://models::http://10.0.0.1/x",
        "/data/digits::http://10.0.0.1/x",
        "dir::http://10.0.0.1/",
        "data:,x",
        "data:application/json;base64,e30=",
        "ftp://10.0.0.1/x",
        "sftp://10.0.0.1/x",
        "ssh://10.0.0.1/x",
        "smb://10.0.0.1/x",
        "github://org:repo@main/x",
        "git://x",
        "hf://org/x",
        "hdfs://10.0.0.1/x",
        "webhdfs://10.0.0.1/x",
        "memory://x",
        "generic://http://10.0.0.1/x",
        "local://x",
        " http://10.0.0.1/x",
        "://x",
        "s3 ://x",
    ],
)
def test_other_places_are_refused_even_when_chained(uri: str) -> None:
    with pytest.raises(ArtifactError, match="artifact must be a folder, s3://, gs:// or az://"):
        check_location(uri)


def test_other_fsspec_protocols_are_refused() -> None:
    from fsspec.registry import known_implementations

    for protocol in {*known_implementations, "generic"}:
        for uri in (f"{protocol}://x/y", f"{protocol}::/x", f"simplecache::{protocol}://x"):
            if uri.partition("://")[0] not in SCHEMES:
                with pytest.raises(ArtifactError):
                    check_location(uri)
