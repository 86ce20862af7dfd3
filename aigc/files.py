"""Files on a local disk: written whole or not at all, appended to, read, hashed.

write(Path("config.json"), b"{}")
append_line(Path("metrics.jsonl"), {"samples": 64})
read_lines(Path("metrics.jsonl"))  # [{"samples": 64}]
"""

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

MAX_BYTES = 1 << 24
"""Largest text file that is read; settings, keys and configs are far smaller."""


def write(path: Path, data: bytes) -> None:
    """Write a file atomically: readers see the old contents or all of `data`. Raises OSError."""
    with replacing(path) as temporary, temporary.open("xb") as file:
        file.write(data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; the file written there replaces `path` at the end.

    After an error nothing is replaced and the temporary file is deleted. A killed process leaves
    one that matches `.*.tmp`. Its name is random: concurrent writers do not meet, and no link
    that somebody put there is followed.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename == str(temporary):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def sha256(path: Path) -> str:
    """SHA-256 of a file's contents, in hexadecimal. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_text(path: Path) -> str:
    """Text of a UTF-8 file.

    Raises ValueError naming the file if it is not UTF-8 or too large, OSError if it cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"{path} is no text that is read here: it has more than {MAX_BYTES} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path} is no text in UTF-8: line {line} has the byte 0x{data[error.start]:02x};"
            " save it as UTF-8"
        ) from None


def expanded(path: str | Path) -> str:
    """Expand `~` and `~user` to home folders; URIs stay as they are.

    Raises ValueError if there is no such home folder.
    """
    if not str(path).startswith("~"):
        return str(path)
    with suppress(RuntimeError):
        if (whole := Path(path).expanduser()).is_absolute():  # HOME may be empty
            return str(whole)
    raise ValueError(f"{path}: there is no such home folder here; give the whole path, or set HOME")


def append_line(path: Path, entry: dict[str, Any]) -> None:
    """Append JSON as a line of its own. Raises OSError, and then the file is as it was."""
    append(path, json.dumps(entry).encode() + b"\n", in_lines=True)


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None if it cannot be read or holds anything else."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """JSON objects of a file with one per line; [] without a file.

    Torn lines and those that hold no object are left out. Raises OSError.
    """
    entries = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        with suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict):
                entries.append(entry)
    return entries


def append(path: Path, data: bytes, *, in_lines: bool = False) -> None:
    """Append all of `data` or nothing. Raises OSError.

    `in_lines`: a half-written last line that a killed process left is ended first.
    """
    with path.open("a+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if in_lines and size:
            file.seek(-1, os.SEEK_END)
            data = data if file.read(1) == b"\n" else b"\n" + data
        try:
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        except OSError:
            with suppress(OSError):
                file.truncate(size)
            raise
