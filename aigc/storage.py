"""A run's folder on an object store: worked on locally, mirrored after every checkpoint.

    mirror = Mirror("s3://bucket/runs/digits", local_folder("s3://bucket/runs/digits"))
    mirror.pull()                      # the run as the store has it, before resuming
    mirror.publish(checkpoint)         # the run's files, then the checkpoint, its certificate last
    mirror.push_files()                # at the end

Objects cannot be appended to, so metrics and TensorBoard files are written locally and go up whole.
The store is the truth: what the working folder has beyond it is set aside by `pull`. Endpoint and
credentials come from the environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and so on).
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import fsspec
from filelock import FileLock

CERTIFICATE = "certificate.json"
"""sha256 of a checkpoint's files by name, as aigc.checkpoint writes it; what else it says is let
be."""
SMALL = (
    "config.json",
    "history.jsonl",
    "metrics.jsonl",
    "lease.json",
    "checkpoints/*/trainer.json",
    f"checkpoints/*/{CERTIFICATE}",
)
"""What of a run's files tells how it goes."""
DRIVER_ONLY = {"checkpoints", "ray", "lease.json"}
"""In a run's folder, but no file of the run: mirrored by themselves, or not at all."""

log = logging.getLogger(__name__)


def is_remote(uri: str | Path) -> bool:
    """Whether a run's storage is an object store. Raises ValueError for one that cannot hold runs.

    `memory://` is none: processes do not share it.
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


@contextmanager
def store_errors(uri: str) -> Iterator[None]:
    """Make an OSError of what botocore and aiohttp raise when a store does not answer."""
    import aiohttp
    from botocore.exceptions import BotoCoreError

    try:
        yield
    except (BotoCoreError, aiohttp.ClientError) as error:
        raise OSError(f"{uri} does not answer: {error}") from error


def local_folder(uri: str, purpose: str = "runs") -> Path:
    """Where this machine works on a remote run: the same folder for the same URI and purpose.

    Below $XDG_CACHE_HOME/aigc, by default ~/.cache/aigc. Its last part is the run's name.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    uri = uri.rstrip("/")
    digest = hashlib.sha256(uri.encode()).hexdigest()[:16]
    return cache / "aigc" / purpose / digest / uri.rpartition("/")[2]


def bring_small_files(uri: str, folder: Path) -> None:
    """Copy what `aigc runs` reads of every run below a prefix: all but the states.

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


def sha256(path: Path) -> str:
    """Of a file's contents, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _find(fs: Any, root: str) -> dict[str, dict[str, Any]]:
    """Facts of all objects by their names below the root. Raises ValueError without the bucket."""
    try:
        found = fs.find(root, detail=True)
    except FileNotFoundError as error:
        bucket = root.partition("/")[0]
        raise ValueError(f"there is no bucket {bucket!r}; create it first") from error
    return {path.removeprefix(f"{root}/"): facts for path, facts in found.items()}


class Mirror:
    """A run's working folder and its place on an object store.

    Errors of the store are OSErrors, for the caller to try again; whatever was interrupted, what
    it leaves does not read as a whole checkpoint.
    """

    def __init__(self, uri: str, local: Path) -> None:
        self.uri, self.local = uri.rstrip("/"), local
        self.filesystem, self.root = filesystem(uri)
        self._sent: dict[str, tuple[int, int]] = {}

    def pull(self) -> Path | None:
        """Make the working folder what the store has; returns the newest whole checkpoint's path.

        Brings config.json, history and metrics, and every whole checkpoint that is not here yet;
        a torn or corrupt one is passed over with a warning. Checkpoints that only the working
        folder has are renamed `<samples>.unpublished`. Where the store has no run, nothing
        changes. Raises ValueError if there is no such bucket.
        """
        self.local.mkdir(parents=True, exist_ok=True)
        # Several workers of one machine pull into the same folder.
        with store_errors(self.uri), FileLock(self.local / ".pull.lock"):
            there = self._list()
            if "config.json" not in there:  # a lease may be there already
                return None
            whole = [name for name in _checkpoints(there) if self._fetch(name, there)]
            self._set_aside(whole)
            for name in there:
                if "/" not in name and name.endswith((".json", ".jsonl")) and _is_file(name):
                    self._download(name)
                    self._sent[name] = _stamp(self.local / name)
        return self.local / "checkpoints" / whole[0] if whole else None

    def push(self, checkpoint: Path, check: Callable[[], None] = lambda: None) -> None:
        """Upload the run's files, then a whole checkpoint of it, the certificate last.

        `check` is called before the certificate and may raise: Lease.check keeps a driver that
        lost the run from publishing. The files go first: ahead of their checkpoint they are cut
        back on resume, behind it they would be lacking for ever.
        """
        self.push_files()
        names = sorted(path.name for path in checkpoint.iterdir() if path.name != CERTIFICATE)
        target = f"{self.root}/checkpoints/{checkpoint.name}"
        with store_errors(self.uri):
            if self.filesystem.exists(
                f"{target}/{CERTIFICATE}"
            ):  # of an altered one with this name
                self.filesystem.rm_file(f"{target}/{CERTIFICATE}")
            for name in names:
                self.filesystem.put_file(str(checkpoint / name), f"{target}/{name}")
            check()
            self.filesystem.put_file(str(checkpoint / CERTIFICATE), f"{target}/{CERTIFICATE}")

    def publish(self, checkpoint: Path, check: Callable[[], None] = lambda: None) -> None:
        """Push a checkpoint, then drop from the store what was pruned from the working folder.

        For a folder that pull() has filled: checkpoints that were never here would go as well.
        """
        self.push(checkpoint, check)
        self.prune(path.name for path in checkpoint.parent.iterdir())

    def push_files(self) -> None:
        """Upload what changed of config, history, metrics, grids and TensorBoard events."""
        with store_errors(self.uri):
            for path in sorted(self.local.rglob("*")):
                name = path.relative_to(self.local).as_posix()
                if not _is_file(name) or not path.is_file():
                    continue
                stamp = _stamp(path)
                if self._sent.get(name) != stamp:
                    self.filesystem.put_file(str(path), f"{self.root}/{name}")
                    self._sent[name] = stamp

    def prune(self, keep: Iterable[str]) -> None:
        """Delete all checkpoints of the store but those named, certificates first."""
        with store_errors(self.uri):
            there = self._list()
            for checkpoint in set(_checkpoints(there)) - set(keep):
                for name in there:
                    if name.startswith(f"checkpoints/{checkpoint}/"):
                        self.filesystem.rm_file(f"{self.root}/{name}")

    def _list(self) -> list[str]:
        """Names of all objects below the root, a checkpoint's certificate before its files."""
        names = _find(self.filesystem, self.root)
        return sorted(names, key=lambda name: (not name.endswith(CERTIFICATE), name))

    def _fetch(self, name: str, there: list[str]) -> bool:
        """Bring a checkpoint here if it is whole; says whether it was."""
        place = f"checkpoints/{name}"
        reason = "its upload was not finished"
        if f"{place}/{CERTIFICATE}" in there:
            temporary = self.local / "checkpoints" / f".{name}.pull.tmp"
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
        """Download a checkpoint and move it to its place; returns why not, or nothing."""
        target = self.local / place
        self.filesystem.get_file(f"{self.root}/{place}/{CERTIFICATE}", str(temporary / CERTIFICATE))
        certificate = (temporary / CERTIFICATE).read_bytes()
        hashes = _hashes(certificate)
        if not hashes:
            return f"{CERTIFICATE} is none"
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
        for path in sorted((self.local / "checkpoints").glob("*")):
            if path.name.isdigit() and path.name not in whole:
                aside = path.with_name(f"{path.name}.unpublished")
                log.warning("%s has no checkpoint %s; renamed to %s", self.uri, path.name, aside)
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)

    def _download(self, name: str) -> None:
        """Whole or not at all."""
        temporary = self.local / f".{name}.pull.tmp"
        self.filesystem.get_file(f"{self.root}/{name}", str(temporary))
        temporary.rename(self.local / name)


def _checkpoints(names: list[str]) -> list[str]:
    """Names of checkpoints, whole or not, newest first."""
    parts = (name.split("/") for name in names)
    found = {p[1] for p in parts if len(p) == 3 and p[0] == "checkpoints" and p[1].isdigit()}
    return sorted(found, reverse=True)


def _is_file(name: str) -> bool:
    """Whether a path in a run's folder is a file of the run; hidden ones are locks and halves."""
    parts = name.split("/")
    return parts[0] not in DRIVER_ONLY and not any(part.startswith(".") for part in parts)


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _hashes(certificate: bytes) -> dict[str, str]:
    """sha256 by file name; empty if this is no certificate."""
    try:
        entries = json.loads(certificate).items()
    except (ValueError, AttributeError):
        return {}
    return {k: v for k, v in entries if isinstance(v, str) and Path(k).name == k}


def _equals(checkpoint: Path, certificate: bytes) -> bool:
    path = checkpoint / CERTIFICATE
    return path.exists() and path.read_bytes() == certificate


def _altered(folder: Path, hashes: dict[str, str]) -> list[str]:
    """Names of files that are missing or not what their hash says."""
    files = {name: folder / name for name in hashes}
    return [n for n, path in files.items() if not path.exists() or sha256(path) != hashes[n]]
