"""Only regular files of the expected size are opened, and no more of them is read."""

import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from aigc.artifact import Artifact, ArtifactError, Store
from aigc.artifact.folder import MAX_MANIFEST_BYTES, SealedFolder
from aigc.artifact.manifest import MANIFEST, File
from tests.artifact.hostile import model, write, zeros_graph


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "stranger", model(zeros_graph()), extra={"README.md": b"read me"})


def refused_at_once(folder: Path, message: str) -> None:
    began_s = time.monotonic()
    with pytest.raises(ArtifactError, match=message):
        Artifact.open(folder, verify=False)
    assert time.monotonic() - began_s < 5


NAMES = ("README.md", "graphs/sample.onnx", "references/sample.npz")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["fifo", "socket", "zero", "link to zero", "terminal", "folder"])
def test_open_refuses_irregular_files_at_once(folder: Path, name: str, kind: str) -> None:
    path = folder / name
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        listener = socket.socket(socket.AF_UNIX)
        before = Path.cwd()
        os.chdir(path.parent)  # its name may have 108 bytes
        listener.bind(path.name)
        os.chdir(before)
        listener.close()
    elif kind == "zero":
        try:
            os.mknod(path, 0o20644, os.makedev(1, 5))
        except PermissionError:
            pytest.skip("devices are root's to make")
    elif kind == "link to zero":
        path.symlink_to("/dev/zero")
    elif kind == "terminal":
        path.symlink_to("/dev/tty")
    else:
        path.mkdir()
    refused_at_once(folder, r"regular files only|is missing")


@pytest.mark.parametrize("where", ["/dev/zero", "/dev/full", "/proc/kmsg", "nowhere", "itself"])
def test_irregular_manifest_is_no_manifest(folder: Path, where: str) -> None:
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).symlink_to(folder / MANIFEST if where == "itself" else where)
    refused_at_once(folder, r"regular files only|holds no manifest|no artifact|not JSON")
    with pytest.raises((ArtifactError, OSError)):
        SealedFolder.open(str(folder))


def test_fifo_as_manifest_is_refused_at_once(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    os.mkfifo(folder / MANIFEST)
    refused_at_once(folder, "holds no manifest|no artifact")
    with pytest.raises(ArtifactError, match="is a FIFO; an artifact holds regular files only"):
        SealedFolder.open(str(folder))
    assert Store(folder.parent).names() == []


def test_links_to_regular_files_are_followed(folder: Path) -> None:
    """Kubernetes mounts config maps so, and caches of hubs store files so."""
    elsewhere = folder.parent / "blob"
    (folder / "graphs/sample.onnx").rename(elsewhere)
    (folder / "graphs/sample.onnx").symlink_to(elsewhere)
    Artifact.open(folder)
    elsewhere.write_bytes(elsewhere.read_bytes()[:-1] + b"\0")
    refused_at_once(folder, "was altered")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [0, 1, 4 << 30])
def test_file_of_another_size_is_refused_unread(folder: Path, name: str, size: int) -> None:
    os.truncate(folder / name, size)
    refused_at_once(folder, f"'{name}' was altered: it has {size} bytes, the manifest says")


def test_oversized_manifest_is_not_read(folder: Path) -> None:
    os.truncate(folder / MANIFEST, MAX_MANIFEST_BYTES + 1)
    refused_at_once(folder, f"at most {MAX_MANIFEST_BYTES} are read")


@pytest.mark.process
def test_files_beside_the_graphs_are_hashed_but_not_held(folder: Path) -> None:
    """A file of 320 MiB beside the model, opened with less memory than that."""
    with (folder / "large.bin").open("wb") as file:
        file.truncate(320 << 20)
    write(folder, model(zeros_graph()))
    script = (
        "import resource, sys; from aigc.artifact import Artifact;"
        "from aigc.artifact.trial import _address_bytes as b;"
        "resource.setrlimit(resource.RLIMIT_AS, (b() + (200 << 20),) * 2);"
        "print(Artifact.open(sys.argv[1]).id)"
    )
    found = subprocess.run(
        [sys.executable, "-c", script, folder], capture_output=True, text=True, timeout=120
    )
    assert found.stdout == "stranger@1\n", found.stderr


def test_unlisted_files_are_never_opened(folder: Path) -> None:
    """Such files may exist, put there by a file system or a user; nothing can refer to them."""
    (folder / "stray.onnx").write_bytes(b"no graph")
    os.mkfifo(folder / "stray")
    assert Artifact.open(folder).id == "stranger@1"


@pytest.mark.parametrize("bytes_", [-1, 0, 1 << 62])
def test_impossible_sizes_in_a_manifest_are_refused(folder: Path, bytes_: int) -> None:
    sealed = SealedFolder.open(str(folder))
    files = {**sealed.manifest.files, "README.md": File(sha256="0" * 64, bytes=bytes_)}
    with pytest.raises(ArtifactError, match="was altered"):
        replace(sealed, manifest=replace(sealed.manifest, files=files)).check()


def test_slow_read_is_cut_at_the_deadline(folder: Path) -> None:
    os.truncate(folder / "README.md", 1 << 40)
    sealed = SealedFolder.open(str(folder))
    files = {**sealed.manifest.files, "README.md": File(sha256="0" * 64, bytes=1 << 40)}
    manifest = replace(sealed.manifest, files=files)
    began_s = time.monotonic()
    with pytest.raises(ArtifactError, match=f"of {1 << 40} bytes, was not read in time"):
        replace(sealed, manifest=manifest, until_s=began_s + 0.5).check()
    assert time.monotonic() - began_s < 30


def test_object_stores_are_held_to_the_sizes(folder: Path) -> None:
    fs = fsspec.filesystem("memory")
    for path in folder.rglob("*"):
        if path.is_file():
            fs.pipe_file(f"/sizes/{path.relative_to(folder).as_posix()}", path.read_bytes())
    assert Artifact.open("memory://sizes").id == "stranger@1"
    for name in NAMES:
        data = fs.cat_file(f"/sizes/{name}")
        for other in (data + b"\0", data[:-1], b""):
            fs.pipe_file(f"/sizes/{name}", other)
            with pytest.raises(ArtifactError, match=f"'{name}' was altered"):
                Artifact.open("memory://sizes", verify=False)
        fs.pipe_file(f"/sizes/{name}", data)
    fs.rm_file("/sizes/README.md")
    fs.makedirs("/sizes/README.md")
    with pytest.raises(ArtifactError, match=r"'README.md' of the manifest is missing"):
        Artifact.open("memory://sizes", verify=False)
    fs.rm("/sizes", recursive=True)
