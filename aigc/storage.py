"""A run's folder on an object store: worked on locally, mirrored whenever a checkpoint is whole.

Objects cannot be appended to, so reports and TensorBoard files grow on the local disk and are
uploaded with each checkpoint. The store is the truth: a run resumes from what is there.
"""

import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec

from aigc import checkpoint

log = logging.getLogger(__name__)

FILES = ("config.json", "history.jsonl", "metrics.jsonl")


def is_remote(storage: str) -> bool:
    """Whether it names an object store, such as s3://bucket/runs. Raises ValueError for memory://,
    which processes do not share."""
    protocol = storage.partition("://")[0] if "://" in storage else "file"
    if protocol == "memory":
        raise ValueError("storage memory:// is not shared by processes; give a folder or s3://")
    return protocol not in ("file", "local")


def local_folder(uri: str) -> Path:
    """Where a run at `uri` is worked on, below $XDG_CACHE_HOME/aigc: the same on every node."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "aigc" / "runs"
    return cache / hashlib.sha256(uri.encode()).hexdigest()[:16] / uri.rpartition("/")[2]


class Mirror:
    """A run's local folder and its image on an object store.

    mirror = Mirror("s3://bucket/runs/digits", folder)
    mirror.pull()                       # before anything is read from the folder
    mirror.push(folder / "checkpoints" / "000000064000")
    """

    def __init__(self, uri: str, local: Path) -> None:
        self.uri, self.local = uri.rstrip("/"), local
        self.filesystem, self.root = fsspec.core.url_to_fs(self.uri)
        self._sent: dict[str, tuple[int, int]] = {}

    def pull(self) -> None:
        """Make the local folder what the store holds: config, reports, the newest whole checkpoint.

        One that was torn or altered is passed over with a warning. Raises OSError.
        """
        checkpoints = self.local / "checkpoints"
        checkpoints.mkdir(parents=True, exist_ok=True)
        with _as_os_error(f"{self.uri} cannot be read"):
            self.filesystem.invalidate_cache()
            for name in FILES:
                (self.local / name).unlink(missing_ok=True)
                if self.filesystem.exists(f"{self.root}/{name}"):
                    self.filesystem.get_file(f"{self.root}/{name}", str(self.local / name))
            there = self._names()
            for path in checkpoints.iterdir():
                if path.name.isdigit() and path.name not in there:
                    shutil.rmtree(path)
            for name in there:
                reason = self._fetch(checkpoints / name)
                if reason is None:
                    return
                log.warning(
                    "checkpoint %s/checkpoints/%s is passed over: %s", self.uri, name, reason
                )

    def push(self, path: Path) -> None:
        """Upload a checkpoint, its certificate last, and what else is new; drop what was pruned.

        Raises OSError; the store then holds no checkpoint that reads as whole but is not.
        """
        with _as_os_error(f"{self.uri} cannot be written"):
            target = f"{self.root}/checkpoints/{path.name}"
            for name in (checkpoint.STATE, checkpoint.TRAINER, checkpoint.CERTIFICATE):
                self.filesystem.put_file(str(path / name), f"{target}/{name}")
            self.push_files()
            kept = {p.name for p in path.parent.iterdir()}
            self.filesystem.invalidate_cache()
            for name in self._names():
                if name not in kept:
                    # The certificate first: what is left is not whole.
                    gone = f"{self.root}/checkpoints/{name}"
                    self.filesystem.rm_file(f"{gone}/{checkpoint.CERTIFICATE}")
                    self.filesystem.rm(gone, recursive=True)

    def push_files(self) -> None:
        """Upload config, reports, grids and TensorBoard files that changed. Raises OSError."""
        with _as_os_error(f"{self.uri} cannot be written"):
            found = [self.local / name for name in FILES]
            found += [*self.local.glob("grids/*.png"), *self.local.glob("events.*")]
            for path in found:
                if not path.exists():
                    continue
                stat = path.stat()
                seen = (stat.st_size, stat.st_mtime_ns)
                name = path.relative_to(self.local).as_posix()
                if self._sent.get(name) != seen:
                    self.filesystem.put_file(str(path), f"{self.root}/{name}")
                    self._sent[name] = seen

    def _names(self) -> list[str]:
        """Checkpoints in the store, newest first, whole or not."""
        try:
            entries = self.filesystem.ls(f"{self.root}/checkpoints", detail=False)
        except FileNotFoundError:
            return []
        names = (entry.rstrip("/").rpartition("/")[2] for entry in entries)
        return sorted((name for name in names if name.isdigit()), reverse=True)

    def _fetch(self, path: Path) -> str | None:
        """Bring a checkpoint here unless it is; returns why it is none."""
        if checkpoint.invalid(path) is None:
            return None
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            for name in (checkpoint.STATE, checkpoint.TRAINER, checkpoint.CERTIFICATE):
                source = f"{self.root}/checkpoints/{path.name}/{name}"
                if not self.filesystem.exists(source):
                    return f"{name} is missing"
                self.filesystem.get_file(source, str(temporary / name))
            reason = checkpoint.invalid(temporary)
            if reason is None:
                shutil.rmtree(path, ignore_errors=True)
                temporary.rename(path)
            return reason
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _as_os_error(what: str) -> Iterator[None]:
    """Clients of object stores raise types of their own."""
    try:
        yield
    except (OSError, ImportError):
        raise
    except Exception as error:
        raise OSError(f"{what}: {error}") from error
