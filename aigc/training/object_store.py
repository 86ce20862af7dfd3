"""A run's folder on an object store: worked on locally, mirrored after every checkpoint.

    store = open_store("s3://bucket/runs/digits")
    store.pull()                       # the run as the store has it, before resuming
    store.publish(checkpoint)          # the run's files, then the checkpoint, its certificate last
    store.push_files()                 # at the end

Objects cannot be appended to, so metrics and TensorBoard files are written locally and uploaded
whole. The store is authoritative: `pull` sets aside checkpoints that only the working folder has.
Endpoint and credentials come from the environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and so on).
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Protocol

import fsspec
from filelock import FileLock

from aigc import cache
from aigc.artifact.store import store_errors
from aigc.files import replacing, sha256
from aigc.own_code import FOLDER as CODE
from aigc.training.run_folder import (
    CERTIFICATE,
    CHECKPOINTS,
    CONFIG,
    LEASE,
    RAY,
    SAMPLES,
    SMALL,
    checkpoint_folders,
)

DRIVER_ONLY = {CHECKPOINTS, RAY, LEASE}
"""Entries of a run's folder that push_files() leaves out."""

log = logging.getLogger(__name__)


def is_remote(uri: str | Path) -> bool:
    """True if a run's storage is an object store. Raises ValueError if it cannot hold runs.

    `memory://` cannot: processes do not share it.
    """
    scheme, colon, _ = str(uri).partition("://")
    if colon and scheme != "s3":
        raise ValueError(f"storage must be a folder or s3://BUCKET/PREFIX, got {str(uri)!r}")
    return bool(colon)


def filesystem(uri: str) -> tuple[Any, str]:
    """An s3:// URI -> (fsspec filesystem without caches, path). Raises ValueError without s3fs."""
    if not is_remote(uri) or not uri.removeprefix("s3://").strip("/"):
        raise ValueError(f"storage must be s3://BUCKET/PREFIX, got {uri!r}")
    try:
        return fsspec.core.url_to_fs(uri.rstrip("/"), use_listings_cache=False)  # type: ignore[no-any-return]
    except ImportError as error:
        raise ValueError(f"{uri} needs s3fs; install it with pip install 'aigc[s3]'") from error


def local_folder(uri: str, purpose: str = "runs") -> Path:
    """Folder of this machine for work on a remote run, the same for the same URI and purpose.

    It is below cache.folder(), and its last part is the run's name. Raises OSError without a cache.
    """
    uri = uri.rstrip("/")
    digest = hashlib.sha256(uri.encode()).hexdigest()[:16]
    return cache.folder() / purpose / digest / uri.rpartition("/")[2]


def bring_small_files(uri: str, folder: Path) -> None:
    """Copy the files that `aigc runs` reads of every run below a prefix.

    Raises ValueError if there is no such bucket, OSError if the store does not answer.
    """
    fs, root = filesystem(uri)
    with store_errors(uri):
        for name, facts in _find(fs, root).items():
            if not any(fnmatch(name.partition("/")[2], pattern) for pattern in SMALL):
                continue
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            fs.get_file(f"{root}/{name}", str(target))
            changed = facts["LastModified"].timestamp()
            os.utime(target, (changed, changed))


def _find(fs: Any, root: str) -> dict[str, dict[str, Any]]:
    """Details of all objects by their names below the root. Raises ValueError without bucket."""
    try:
        objects = fs.find(root, detail=True)
    except FileNotFoundError as error:
        bucket = root.partition("/")[0]
        raise ValueError(f"there is no bucket {bucket!r}; create it first") from error
    return {path.removeprefix(f"{root}/"): facts for path, facts in objects.items()}


class RunStore(Protocol):
    """The working folder of a run, and the place that it is copied to."""

    uri: str
    """URI of that place; the folder itself if there is no other."""
    folder: Path
    """Working folder."""

    def pull(self) -> Path | None:
        """Make the folder what the store has; returns the newest whole checkpoint's path."""

    def publish(self, checkpoint: Path, check: Callable[[], None] = lambda: None) -> None:
        """Copy a whole checkpoint and the run's files to the store, if `check` does not raise."""

    def push_files(self) -> None:
        """Copy the run's files, without checkpoints, to the store."""

    def prune(self, keep: Iterable[str]) -> None:
        """Delete all checkpoints of the store but those named."""

    def arrow(self) -> tuple[str, Any]:
        """Path and pyarrow filesystem of the place, None for a local folder."""


class NullStore:
    """A run that is kept in its folder alone."""

    def __init__(self, folder: Path) -> None:
        self.uri, self.folder = str(folder), folder

    def pull(self) -> None:
        """Do nothing."""

    def publish(self, checkpoint: Path, check: Callable[[], None] = lambda: None) -> None:
        """Do nothing."""

    def prune(self, keep: Iterable[str]) -> None:
        """Do nothing."""

    def push_files(self) -> None:
        """Do nothing."""

    def arrow(self) -> tuple[str, None]:
        """The folder."""
        return self.uri, None


def open_store(uri: str, folder: Path | None = None) -> RunStore:
    """The store of a run by its folder or s3:// URI; remote runs are worked on in `folder`.

    By default this is local_folder(uri). Raises ValueError for a URI that cannot hold runs.
    """
    if is_remote(uri):
        return ObjectStore(uri, folder or local_folder(uri))
    return NullStore(Path(uri).absolute())


class ObjectStore:
    """A run's working folder and its place on an object store.

    Errors of the store are OSErrors, which the caller may retry. An interrupted call never leaves
    anything that reads as a whole checkpoint.
    """

    def __init__(self, uri: str, folder: Path) -> None:
        self.uri, self.folder = uri.rstrip("/"), folder
        self.filesystem, self.root = filesystem(uri)
        self._sent: dict[str, tuple[int, int]] = {}

    def pull(self) -> Path | None:
        """Make the working folder what the store has; returns the newest whole checkpoint's path.

        Downloads config.json, code, history and metrics, and every whole checkpoint that is not
        here yet; torn and corrupt ones are skipped with a warning. Checkpoints that only the
        working folder has are renamed `<samples>.unpublished`. If the store has no run, nothing
        changes.
        Raises ValueError if there is no such bucket.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        # Several workers of one machine pull into the same folder.
        with store_errors(self.uri), FileLock(self.folder / ".pull.lock"):
            there = self._list()
            if CONFIG not in there:  # a lease may be there already
                return None
            whole = [name for name in _checkpoints(there) if self._fetch(name, there)]
            self._set_aside(whole)
            for name in there:
                if _is_pulled(name):
                    self._download(name)
                    self._sent[name] = _stamp(self.folder / name)
        return self.folder / CHECKPOINTS / whole[0] if whole else None

    def push(self, checkpoint: Path, check: Callable[[], None] = lambda: None) -> None:
        """Upload the run's files, then a whole checkpoint of it, the certificate last.

        `check` is called before the certificate and may raise: Lease.check keeps a driver that
        lost the run from publishing. The files go first: if they are ahead of their checkpoint,
        they are truncated on resume; if they were behind it, lines would be lost.
        """
        self.push_files()
        names = sorted(path.name for path in checkpoint.iterdir() if path.name != CERTIFICATE)
        target = f"{self.root}/{CHECKPOINTS}/{checkpoint.name}"
        with store_errors(self.uri):
            # An altered checkpoint of the same name may have one.
            if self.filesystem.exists(f"{target}/{CERTIFICATE}"):
                self.filesystem.rm_file(f"{target}/{CERTIFICATE}")
            for name in names:
                self.filesystem.put_file(str(checkpoint / name), f"{target}/{name}")
            check()
            self.filesystem.put_file(str(checkpoint / CERTIFICATE), f"{target}/{CERTIFICATE}")

    def publish(self, checkpoint: Path, check: Callable[[], None] = lambda: None) -> None:
        """Push a checkpoint, then delete from the store what was pruned from the working folder.

        Only for a folder that pull() has filled: checkpoints that were never here are deleted too.
        """
        self.push(checkpoint, check)
        self.prune(path.name for path in checkpoint.parent.iterdir())

    def push_files(self) -> None:
        """Upload what changed of config, history, metrics, grids and TensorBoard events."""
        with store_errors(self.uri):
            for path in sorted(self.folder.rglob("*")):
                name = path.relative_to(self.folder).as_posix()
                if not _is_file(name) or not path.is_file():
                    continue
                stamp = _stamp(path)
                if self._sent.get(name) != stamp:
                    self.filesystem.put_file(str(path), f"{self.root}/{name}")
                    self._sent[name] = stamp

    def arrow(self) -> tuple[str, Any]:
        """Path below the bucket's root, and pyarrow filesystem."""
        from pyarrow.fs import FSSpecHandler, PyFileSystem

        return self.root, PyFileSystem(FSSpecHandler(self.filesystem))

    def prune(self, keep: Iterable[str]) -> None:
        """Delete all checkpoints of the store but those named, certificates first."""
        with store_errors(self.uri):
            there = self._list()
            for checkpoint in set(_checkpoints(there)) - set(keep):
                for name in there:
                    if name.startswith(f"{CHECKPOINTS}/{checkpoint}/"):
                        self.filesystem.rm_file(f"{self.root}/{name}")

    def _list(self) -> list[str]:
        """Names of all objects below the root, a checkpoint's certificate before its files."""
        names = _find(self.filesystem, self.root)
        return sorted(names, key=lambda name: (not name.endswith(CERTIFICATE), name))

    def _fetch(self, name: str, there: list[str]) -> bool:
        """Download a checkpoint if it is whole; returns True if it was."""
        place = f"{CHECKPOINTS}/{name}"
        reason = "its upload was not finished"
        if f"{place}/{CERTIFICATE}" in there:
            temporary = self.folder / CHECKPOINTS / f".{name}.pull.tmp"
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            try:
                reason = self._fetch_into(temporary, place)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        if reason:
            log.warning("checkpoint %s/%s is passed over: %s", self.uri, place, reason)
        return not reason

    def _fetch_into(self, temporary: Path, place: str) -> str:
        """Download a checkpoint and move it to its place; returns the reason if it is not whole."""
        target = self.folder / place
        self.filesystem.get_file(f"{self.root}/{place}/{CERTIFICATE}", str(temporary / CERTIFICATE))
        certificate = (temporary / CERTIFICATE).read_bytes()
        hashes = _hashes(certificate)
        if not hashes:
            return f"{CERTIFICATE} is not a certificate"
        if _equals(target, certificate) and not _altered(target, hashes):
            return ""
        for name in hashes:
            try:
                self.filesystem.get_file(f"{self.root}/{place}/{name}", str(temporary / name))
            except FileNotFoundError:
                return f"{name} is missing"
        altered = _altered(temporary, hashes)
        if altered:
            return f"{', '.join(altered)} does not match the certificate"
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
        return ""

    def _set_aside(self, whole: list[str]) -> None:
        for path in checkpoint_folders(self.folder / CHECKPOINTS):
            if path.name not in whole:
                aside = path.with_name(f"{path.name}.unpublished")
                log.warning("%s has no checkpoint %s; renamed to %s", self.uri, path.name, aside)
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)

    def _download(self, name: str) -> None:
        (self.folder / name).parent.mkdir(exist_ok=True)
        with replacing(self.folder / name) as temporary:
            self.filesystem.get_file(f"{self.root}/{name}", str(temporary))


def _checkpoints(names: list[str]) -> list[str]:
    """Names of checkpoints, whole or not, newest first."""
    parts = (name.split("/") for name in names)
    checkpoints = {
        part[1]
        for part in parts
        if len(part) == 3 and part[0] == CHECKPOINTS and SAMPLES.fullmatch(part[1])
    }
    return sorted(checkpoints, key=int, reverse=True)


def _is_file(name: str) -> bool:
    """True if a path in a run's folder is a file of the run; hidden files are locks or torn."""
    parts = name.split("/")
    return parts[0] not in DRIVER_ONLY and not any(part.startswith(".") for part in parts)


def _is_pulled(name: str) -> bool:
    """True of the files that a start needs beside checkpoints: JSON, and code of a user's."""
    folder, _, base = name.rpartition("/")
    if folder == CODE:
        return base.endswith(".py") and _is_file(name)
    return not folder and base.endswith((".json", ".jsonl")) and _is_file(name)


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _hashes(certificate: bytes) -> dict[str, str]:
    """SHA-256 by file name; empty if this is not a certificate."""
    try:
        entries = json.loads(certificate).items()
    except (ValueError, AttributeError):
        return {}
    return {k: v for k, v in entries if isinstance(v, str) and Path(k).name == k}


def _equals(checkpoint: Path, certificate: bytes) -> bool:
    path = checkpoint / CERTIFICATE
    return path.exists() and path.read_bytes() == certificate


def _altered(folder: Path, hashes: dict[str, str]) -> list[str]:
    """Names of files that are missing or whose hash differs."""
    files = {name: folder / name for name in hashes}
    return [n for n, path in files.items() if not path.exists() or sha256(path) != hashes[n]]
