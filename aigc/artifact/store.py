"""name@version <-> folder, on a local disk or an object store.

    store = Store("artifacts")                  # or s3://bucket/artifacts
    store.publish(folder)                       # -> artifacts/digits/1
    store.resolve("digits")                     # -> artifacts/digits/1, the newest version

A version is there when its manifest is: it is written last. A version never changes, once it has
been evaluated.
"""

import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec

from aigc.artifact.manifest import (
    MANIFEST,
    NAME,
    VERSION,
    ArtifactError,
    check_name,
    check_version,
    parse,
)

CLAIM = "publishing"
"""Object that says since when a version is being published."""
CLAIM_S = 600.0
"""A claim older than this is of a process that died."""


def version_order(version: str) -> tuple[int, ...]:
    """Sorts "10" behind "9" and "1.2"."""
    return tuple(int(part) for part in version.split("."))


class Store:
    """Artifacts below one folder or object-store prefix (any fsspec URI)."""

    def __init__(self, uri: str | Path) -> None:
        self.uri = str(uri).rstrip("/") or "/"
        self._fs: Any
        self._fs, self._root = fsspec.core.url_to_fs(self.uri)

    def names(self) -> list[str]:
        """Names that have at least one complete version, sorted."""
        return [name for name in self._folders(self._root) if self.versions(name)]

    def versions(self, name: str) -> list[str]:
        """Complete versions of `name`, oldest first."""
        if not NAME.fullmatch(name):
            return []
        folder = f"{self._root}/{name}"
        found = [v for v in self._folders(folder) if VERSION.fullmatch(v)]
        complete = [v for v in found if self._fs.exists(f"{folder}/{v}/{MANIFEST}")]
        return sorted(complete, key=version_order)

    def resolve(self, reference: str) -> str:
        """URI of `name@version`, or of the newest version for `name` alone."""
        name, _, version = reference.partition("@")
        check_name(name)
        versions = self.versions(name)
        if not versions:
            known = ", ".join(self.names()) or "none"
            raise ArtifactError(f"no artifact {name!r} in {self.uri}; there are: {known}")
        if version and version not in versions:
            raise ArtifactError(
                f"artifact {name!r} in {self.uri} has no version {version!r},"
                f" it has: {', '.join(versions)}"
            )
        return f"{self.uri}/{name}/{version or versions[-1]}"

    def next_version(self, name: str) -> str:
        """One more than the newest version's first number; "1" for a new name."""
        versions = self.versions(name)
        return str(version_order(versions[-1])[0] + 1) if versions else "1"

    def check_free(self, name: str, version: str) -> None:
        """Raise ArtifactError if `name@version` is malformed or published already."""
        check_name(name)
        check_version(version)
        if version in self.versions(name):
            raise ArtifactError(
                f"{name}@{version} exists already in {self.uri} and versions never change;"
                f" the next free one is {self.next_version(name)}"
            )

    def publish(self, folder: Path) -> str:
        """Copy a sealed folder in, the manifest last. Returns its URI.

        Raises ArtifactError if that version exists or the folder is not sealed.
        """
        try:
            manifest = parse((folder / MANIFEST).read_bytes())
        except FileNotFoundError as error:
            raise ArtifactError(f"{folder} holds no {MANIFEST}; export writes it") from error
        self.check_free(manifest.name, manifest.version)
        target = f"{self._root}/{manifest.name}/{manifest.version}"
        if self._fs.protocol == "file" or "file" in self._fs.protocol:
            self._publish_local(folder, Path(target))
        else:
            self._publish_remote(folder, target, tuple(manifest.files))
        return f"{self.uri}/{manifest.id.replace('@', '/')}"

    def _publish_local(self, folder: Path, target: Path) -> None:
        """Copy beside the target and rename: whoever comes second finds the version taken."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".publish-", dir=target.parent) as temporary:
            copy = Path(temporary) / "copy"
            shutil.copytree(folder, copy)
            copy.chmod(0o755)  # a temporary folder is private, a version is for everybody to read
            if target.exists() and not (target / MANIFEST).exists():
                shutil.rmtree(target)  # left behind by a copy that never got its manifest
            try:
                copy.rename(target)
            except OSError as error:
                raise ArtifactError(f"{target} exists already and versions never change") from error

    def _publish_remote(self, folder: Path, target: str, files: tuple[str, ...]) -> None:
        """Claim the version, upload, and write the manifest last, only if there is none."""
        self._fs.makedirs(target, exist_ok=True)
        claim = f"{target}/{CLAIM}"
        try:
            self._fs.pipe_file(claim, str(time.time()).encode(), mode="create")
        except FileExistsError:
            age = time.time() - float(self._fs.cat_file(claim))
            if age < CLAIM_S:
                raise ArtifactError(
                    f"{target} is being published by another process; if that has died, try again"
                    f" in {CLAIM_S - age:.0f} s"
                ) from None
        try:
            for name in files:
                self._fs.makedirs(f"{target}/{name}".rpartition("/")[0], exist_ok=True)
                self._fs.pipe_file(f"{target}/{name}", (folder / name).read_bytes())
            data = (folder / MANIFEST).read_bytes()
            self._fs.pipe_file(f"{target}/{MANIFEST}", data, mode="create")
        except FileExistsError as error:
            raise ArtifactError(f"{target} exists already and versions never change") from error
        finally:
            with suppress(Exception):  # it ends by itself
                self._fs.rm_file(claim)

    def _folders(self, path: str) -> list[str]:
        try:
            entries = self._fs.ls(path, detail=True, refresh=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        names = (e["name"].rstrip("/").rpartition("/")[2] for e in entries)
        kinds = (e["type"] for e in entries)
        return sorted(n for n, t in zip(names, kinds, strict=True) if t == "directory")


def locate(reference: str | Path) -> str:
    """What a user may write -> URI of one artifact folder.

    Takes the folder itself (`artifacts/digits/3`), a name in a store (`artifacts/digits`, the
    newest version) or a version of one (`artifacts/digits@3`).
    """
    uri = str(reference).rstrip("/")
    fs, path = fsspec.core.url_to_fs(uri)
    if fs.exists(f"{path}/{MANIFEST}"):
        return uri
    parent, _, last = uri.rpartition("/")
    if parent.endswith(":/"):  # memory://digits: the store is the root
        parent += "/"
    store = Store(parent or ".")
    if not VERSION.fullmatch(last) and NAME.fullmatch(last.partition("@")[0]):
        return store.resolve(last)
    raise ArtifactError(f"{uri} is no artifact: it holds no {MANIFEST}")
