"""The files of an artifact: regular files only, checked against size and hash of the manifest.

    folder = SealedFolder.open("s3://models/digits/3")
    folder.read("generator.onnx")                   # ArtifactError if it was altered

Other kinds of files are not opened, and no file is read beyond the expected size.
"""

import hashlib
import math
import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import fsspec

from aigc.artifact.graph import CheckedGraph, check_graph
from aigc.artifact.manifest import MANIFEST, SIGNATURE_FILE, ArtifactError, File, Manifest, parse
from aigc.artifact.references import reference_sizes
from aigc.artifact.signing import Trust
from aigc.artifact.store import store_errors

MAX_MANIFEST_BYTES = 16 << 20
MAX_SIGNATURE_BYTES = 1 << 20
PIECE_BYTES = 1 << 22

Checked = Mapping[str, CheckedGraph]
"""Graphs by the names of their files."""


@dataclass(frozen=True, kw_only=True)
class Contents:
    """The graphs, weights and references that a model runs with, all of them checked."""

    graphs: Mapping[str, bytes]
    weights: Mapping[str, Mapping[str, bytes]]
    """External weights by graph, then by the location that the graph names."""
    references: Mapping[str, bytes]
    bounded: frozenset[str] = frozenset()
    """Graphs whose run time does not depend on the values of their inputs."""


@dataclass(frozen=True, kw_only=True)
class SealedFolder:
    """One artifact's folder on a disk or an object store, with its manifest."""

    uri: str
    manifest: Manifest
    manifest_bytes: bytes
    until_s: float = math.inf
    """Deadline on the monotonic clock after which nothing is read: a thread that reads cannot be
    ended."""

    @classmethod
    def open(cls, uri: str, trust: Trust | None = None) -> "SealedFolder":
        """Read the manifest, and with `trust` the signature over it. Raises ArtifactError."""
        with store_errors(uri):
            return cls._open(uri, trust)

    @classmethod
    def _open(cls, uri: str, trust: Trust | None) -> "SealedFolder":
        fs, root = fsspec.core.url_to_fs(uri)
        try:
            data = _whole(fs, f"{root}/{MANIFEST}", MAX_MANIFEST_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            raise ArtifactError(f"{uri} is no artifact: it holds no {MANIFEST}") from None
        try:
            manifest = parse(data)
        except ArtifactError as error:
            raise ArtifactError(f"{uri}: {error}") from error
        if trust is not None:
            try:
                signature = _whole(fs, f"{root}/{SIGNATURE_FILE}", MAX_SIGNATURE_BYTES)
            except (FileNotFoundError, NotADirectoryError):
                raise ArtifactError(
                    f"{manifest.id} in {uri} is not signed: it holds no {SIGNATURE_FILE}, and only"
                    f" what {trust.name} signed is trusted; `aigc export --sign KEY` signs"
                ) from None
            trust.check(data, manifest, signature)
        return cls(uri=uri, manifest=manifest, manifest_bytes=data)

    @property
    def model_bytes(self) -> int:
        """Bytes of graphs and references; external weights are not known yet."""
        return sum(self.manifest.files[name].bytes for name in (*self._graphs, *self._references))

    def read(self, name: str) -> bytes:
        """A file of the manifest. Raises ArtifactError if it is missing or was altered."""
        if name not in self.manifest.files:
            raise ArtifactError(f"{self.manifest.id} holds no file {name!r}")
        return b"".join(self._pieces(name, self.manifest.files[name]))

    def check(self) -> None:
        """Hash the files that contents() does not read, piece by piece. Raises ArtifactError."""
        for name, file in self.manifest.files.items():
            if name not in self._graphs and name not in self._references:
                for _ in self._pieces(name, file):
                    pass

    def graphs(self) -> tuple[dict[str, bytes], Checked]:
        """The graphs' files, and the facts found by parsing them.

        Raises ArtifactError for a graph that is not allowed, before anything loads it.
        """
        graphs = {name: self.read(name) for name in self._graphs}
        checked = {
            name: check_graph(name, data, self.manifest.files) for name, data in graphs.items()
        }
        return graphs, checked

    def outside_bytes(self, checked: Checked) -> int:
        """Bytes of the external weights."""
        return sum(self.manifest.files[name].bytes for name in _outside(checked))

    def contents(self, graphs: Mapping[str, bytes], checked: Checked) -> Contents:
        """Read everything that a model runs with. Raises ArtifactError."""
        weights = {name: self.read(name) for name in _outside(checked)}
        return Contents(
            graphs=graphs,
            weights={
                graph: {location: weights[name] for location, name in facts.external.items()}
                for graph, facts in checked.items()
            },
            references={name: self.read(name) for name in self._references},
            bounded=frozenset(graph for graph, facts in checked.items() if facts.is_bounded),
        )

    @property
    def _graphs(self) -> list[str]:
        return sorted({signature.graph for signature in self.manifest.signatures.values()})

    @property
    def _references(self) -> list[str]:
        return [
            file
            for name, signature in self.manifest.signatures.items()
            for file in reference_sizes(name, signature, self.manifest.files)
        ]

    def _pieces(self, name: str, file: File) -> Iterator[bytes]:
        """The file in pieces; the last piece is yielded only if the hash matches."""
        fs, root = fsspec.core.url_to_fs(self.uri)
        hashed, left, last = hashlib.sha256(), file.bytes, b""
        try:
            with store_errors(self.uri), _opened(fs, f"{root}/{name}") as (stream, size):
                if size != file.bytes:
                    raise ArtifactError(
                        f"{root}: {name!r} was altered: it has {size} bytes, the manifest says"
                        f" {file.bytes}"
                    )
                for piece in _taken(stream, size):
                    if time.monotonic() > self.until_s:
                        raise ArtifactError(
                            f"{root}: {name!r}, of {size} bytes, was not read in time"
                        )
                    left -= len(piece)
                    hashed.update(piece)
                    if last:
                        yield last
                    last = piece
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise ArtifactError(f"{root}: file {name!r} of the manifest is missing") from None
        if left or hashed.hexdigest() != file.sha256:
            raise ArtifactError(
                f"{root}: {name!r} was altered: {file.bytes - left} bytes with another sha256 than"
                f" the manifest's ({file.bytes} bytes)"
            )
        yield last


def _outside(checked: Checked) -> set[str]:
    """Names of the files with external weights."""
    return {name for facts in checked.values() for name in facts.external.values()}


def read_manifest(uri: str, trust: Trust | None = None) -> Manifest:
    """The manifest of an artifact folder; its files are not read. Raises ArtifactError."""
    return SealedFolder.open(uri, trust).manifest


def _whole(fs: Any, path: str, limit: int) -> bytes:
    """A file whose size no manifest tells. Raises ArtifactError beyond `limit` bytes."""
    with _opened(fs, path) as (stream, size):
        if size > limit:
            raise ArtifactError(f"{path} has {size} bytes; at most {limit} are read")
        return b"".join(_taken(stream, size))


def _taken(stream: BinaryIO, size: int) -> Iterator[bytes]:
    """Read `size` bytes in pieces: fewer if the file ends before, never more if it has grown."""
    while size > 0 and (piece := stream.read(min(size, PIECE_BYTES))):
        size -= len(piece)
        yield piece


@contextmanager
def _opened(fs: Any, path: str) -> Iterator[tuple[BinaryIO, int]]:
    """A regular file and its size. Raises ArtifactError for anything else, without opening it."""
    if not isinstance(fs, fsspec.get_filesystem_class("file")):
        info = fs.info(path)
        if info["type"] == "directory":
            raise IsADirectoryError(path)
        if info["type"] != "file" or not isinstance(info.get("size"), int):
            raise ArtifactError(f"{path} is no object of a known size")
        with fs.open(path, "rb", block_size=PIECE_BYTES) as stream:
            yield stream, info["size"]
        return
    _check_regular(path, Path(path).stat())  # first: to open some devices is to use them
    # A FIFO may have come in its place.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb", buffering=0) as stream:
        status = os.fstat(stream.fileno())
        _check_regular(path, status)
        yield stream, status.st_size


def _check_regular(path: str, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(path)
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
        kind = kinds.get(stat.S_IFMT(status.st_mode), "a device")
        raise ArtifactError(f"{path} is {kind}; an artifact holds regular files only")
