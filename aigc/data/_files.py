"""Files of a folder or an object store, and what is known of them, kept in the user's cache."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from aigc.data import Split


@dataclass(frozen=True)
class File:
    """A file as a listing shows it."""

    uri: str
    """What fsspec opens."""
    name: str
    """Relative to the folder listed."""
    size: int
    stamp: str
    """ETag or time of last change: another content has another one."""

    def facts(self) -> list[Any]:
        """What tells this version of the file from every other."""
        return [self.uri, self.size, self.stamp]


def listing(path: str, suffixes: Sequence[str], source: str) -> list[File]:
    """All files below a folder or URI with one of the suffixes, or the one file, sorted by name.

    Hidden ones are left out. Raises ValueError if there is none, or no path was given.
    """
    if not path:
        raise ValueError(f"data source {source} needs a folder or URI; set --data.path PATH")
    try:
        system, root = fsspec.url_to_fs(path)
        found = system.find(root, detail=True)
    except (ImportError, ValueError) as error:  # an unknown scheme, or its package is not there
        raise ValueError(f"{path!r} cannot be opened: {error}") from error
    root = root.rstrip("/")
    files = []
    for key, info in found.items():
        name = key.removeprefix(root).lstrip("/") or Path(key).name
        hidden = any(part.startswith((".", "__")) for part in name.split("/"))
        if name.lower().endswith(tuple(suffixes)) and not hidden:
            stamp = next((info[k] for k in ("ETag", "etag", "mtime") if info.get(k)), "")
            files.append(File(system.unstrip_protocol(key), name, int(info["size"]), str(stamp)))
    if not files:
        raise ValueError(
            f"{path!r} holds no {' or '.join(suffixes)} file; set --data.path to where they are"
        )
    return sorted(files, key=lambda file: file.name)


def fetch(file: File) -> bytes:
    """The whole content. Its file system is looked up anew: connections do not survive a fork."""
    system, path = fsspec.url_to_fs(file.uri)
    return bytes(system.cat_file(path))


def sha256(files: Sequence[File]) -> str:
    """Of relative names and contents; read once, then known from the listing."""

    def digests() -> str:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            parts = pool.map(lambda file: hashlib.sha256(fetch(file)).hexdigest(), files)
            total = hashlib.sha256()
            for file, digest in zip(files, parts, strict=True):
                total.update(f"{file.name}\0{digest}\n".encode())
        return total.hexdigest()

    return str(cached("sha256", ([file.name, *file.facts()] for file in files), digests))


def cached(kind: str, facts: Iterable[Any], compute: Callable[[], Any]) -> Any:
    """What `compute` gives, as JSON in $XDG_CACHE_HOME/aigc under the hash of `facts`.

    A cache that cannot be read or written costs time only.
    """
    key = hashlib.sha256(json.dumps(list(facts)).encode()).hexdigest()[:32]
    folder = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "aigc"
    path = folder / f"{kind}-{key}.json"
    with suppress(OSError, ValueError):
        return json.loads(path.read_text())
    value = compute()
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(value))
        temporary.rename(path)
    return value


def in_classes(
    folder: Path, files: Sequence[File], what: str, each: str
) -> tuple[dict[str, str | None], bool]:
    """The class of each file by its name, and whether `folder` has train and test folders.

    The first sub-folder is the class, behind that of the split; None where there is none. With
    folders of splits, files beside those are left out. Raises ValueError, naming `what` and `each`
    of it, where some lie in folders of classes and some do not.
    """
    has_splits = all((folder / part).is_dir() for part in ("train", "test"))
    if has_splits:
        files = [file for file in files if file.name.startswith(("train/", "test/"))]
    labelled: dict[str, str | None] = {}
    for file in files:
        parts = file.name.split("/")[1 if has_splits else 0 :]
        labelled[file.name] = parts[0] if len(parts) > 1 else None
    if len({label is None for label in labelled.values()}) > 1:
        loose = next(name for name, label in labelled.items() if label is None)
        raise ValueError(
            f"{folder} holds {what} in sub-folders and beside them, such as {loose};"
            f" put {each} into the folder of its class, or all into one folder"
        )
    return labelled, has_splits


def split_of(name: str, has_splits: bool) -> Split:
    """That of its folder, or else a tenth by the hash of the name is the test."""
    if has_splits:
        return "train" if name.startswith("train/") else "test"
    digest = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return "test" if digest % 10 == 0 else "train"
