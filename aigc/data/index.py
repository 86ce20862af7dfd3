"""Indices of webdataset shards: rows by their keys, from the headers of a tar and its labels.

    python -m aigc.data.index

is a process that indexes the tars whose paths come on stdin, one a line as JSON, and answers each
with a line of JSON.
"""

import json
import mmap
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from queue import SimpleQueue
from typing import Any

from aigc.data.cache import keep, looked_up
from aigc.data.content import File, opened
from aigc.data.files import FIRST, is_system
from aigc.data.pictures import SUFFIXES
from aigc.data.tars import Joined, NoTar, Reader, Unsupported, members

KIND = "tar2"
"""In the cache; another name for another form."""
PAYS_S = 2.0
"""Work, in seconds, from which on processes are started for it."""
MAX_PROCESSES = 16

Index = dict[str, Any]
"""keys: of each row. labels: of each row, None without. pictures: for every suffix of pictures, the
rows that have one, and offset and size of each. unread: for every other suffix, count and first
name. system: count and first names of a system's own. strange: count and first names of links that
lead to no earlier member, of devices and of pipes. end: why the tar is not whole, or empty. joined:
where it ends before the end of the file, or empty. conflict: the first two labels of a row that
differ, in words, or empty."""


def indices(files: Sequence[File], name: str) -> dict[File, Index]:
    """The index of each file, kept between runs; a bar on stderr after two seconds.

    Raises ValueError for a file that is no tar, or has no rows, or one picture twice.
    """
    from tqdm import tqdm

    with tqdm(total=len(files), desc=f"indexing {name}", delay=2, leave=False) as bar:
        with ThreadPoolExecutor(8) as pool:
            facts = dict(zip(files, pool.map(File.facts, files), strict=True))
            kept = pool.map(lambda file: looked_up(KIND, facts[file]), files)
            cached_indices: dict[File, Index] = {
                file: index for file, index in zip(files, kept, strict=True) if index is not None
            }
        bar.update(len(cached_indices))
        for file, index in _scanned([file for file in files if file not in cached_indices]):
            keep(KIND, facts[file], index)
            cached_indices[file] = index
            bar.update()
    return {file: cached_indices[file] for file in files}


def _scanned(files: Sequence[File]) -> Iterator[tuple[File, Index]]:
    """Here, one after the other; by processes, once their number shows that it takes long."""
    begun = time.monotonic()
    done = 0
    for number, file in enumerate(files):
        yield file, scan(file)
        done += file.size
        left = sum(other.size for other in files[number + 1 :])
        seconds = (time.monotonic() - begun) * left / max(done, 1)
        processes = min(cpu_count() or 1, len(files) - number - 1, MAX_PROCESSES)
        if seconds > PAYS_S and processes > 1:
            yield from _by_processes(files[number + 1 :], processes)
            return


def _by_processes(files: Sequence[File], processes: int) -> Iterator[tuple[File, Index]]:
    """Each process takes the next file; in the order in which they are done."""
    waiting: SimpleQueue[File | None] = SimpleQueue()
    done: SimpleQueue[tuple[File, Index] | Exception] = SimpleQueue()
    for file in (*files, *(None,) * processes):
        waiting.put(file)

    def work() -> None:
        command = [sys.executable, "-m", "aigc.data.index"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            while (file := waiting.get()) is not None:
                process.stdin.write(json.dumps([file.uri, file.name, file.size]).encode() + b"\n")
                process.stdin.flush()
                line = process.stdout.readline()
                answer = json.loads(line) if line else f"nothing came of indexing {file.uri}"
                if isinstance(answer, str):
                    raise ValueError(answer)
                done.put((file, answer))
            process.stdin.close()

    def worker() -> None:
        try:
            work()
        except Exception as error:
            done.put(error)

    with ThreadPoolExecutor(processes) as pool:
        for _ in range(processes):
            pool.submit(worker)
        try:
            for _ in files:
                item = done.get()
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:  # where it ends early, each ends after the file that it is at
            while not waiting.empty():
                waiting.get()
            for _ in range(processes):
                waiting.put(None)


def main() -> None:
    """See above; what is wrong with a tar is the answer, as text."""
    for line in sys.stdin.buffer:
        uri, name, size = json.loads(line)
        answer: Index | str
        try:
            answer = scan(File(uri, name, size, ""))
        except ValueError as error:
            answer = str(error)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def scan(file: File) -> Index:
    """Walk through the headers; pictures are passed over, labels are read.

    A tar that is cut off keeps the samples before the cut, the last of which may be half."""
    try:
        with opened(file) as content:
            if file.path is None:

                def seek(offset: int, count: int) -> bytes:
                    content.seek(offset)
                    return bytes(content.read(count))

                return _scan(file, seek)
            if not file.size:
                raise ValueError(f"{file.uri} is no plain tar file: it is empty")
            with mmap.mmap(content.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                return _scan(file, lambda offset, count: mapped[offset : offset + count])
    except OSError as error:
        raise ValueError(f"{file.uri} cannot be read: {error}") from error


def _scan(file: File, read: Reader) -> Index:
    rows: dict[str, int] = {}
    labels: list[dict[str, Any]] = []
    """Labels of each row, by suffix."""
    conflict = ""
    pictures: dict[str, dict[int, tuple[int, int]]] = {}
    unread: dict[str, list[Any]] = {}
    system: list[Any] = [0, []]
    strange: list[Any] = [0, []]
    hidden: dict[str, bool] = {}
    kinds: dict[str, str] = {}
    end = joined = ""
    try:
        for name, offset, size in members(read, file.size):
            if offset < 0:
                strange = [strange[0] + 1, [*strange[1], name][:FIRST]]
                continue
            folder, _, last = name.rpartition("/")
            if folder not in hidden:
                hidden[folder] = any(is_system(part) for part in folder.split("/"))
            stem, _, suffix = last.partition(".")
            kind = kinds.get(suffix)
            if kind is None:
                kind = kinds[suffix] = _kind(suffix)
            if hidden[folder] or not stem or (not kind and is_system(last)):
                system[0] += 1
                system[1] = [*system[1], name][:FIRST]
                continue
            if not kind:
                told = unread.setdefault(suffix.lower(), [0, name])
                told[0] += 1
                continue
            key = name[: -len(suffix) - 1]
            row = rows.setdefault(key, len(rows))
            if row == len(labels):
                labels.append({})
            if kind in _READS_LABEL:
                label = _READS_LABEL[kind](read(offset, size))
                if label is not None and labels[row].setdefault(kind, label) != label:
                    conflict = conflict or _conflict(key, labels[row][kind], label)
            else:
                places = pictures.setdefault(kind, {})
                if row in places:
                    raise ValueError(
                        f"{file.uri} has {key}.{suffix} twice; give every row a key of its own"
                    )
                places[row] = offset, size
    except Unsupported as error:
        raise ValueError(f"{file.uri} cannot be read: {error}") from error
    except (NoTar, EOFError, Joined) as error:
        if not rows:
            raise ValueError(f"{file.uri} is no plain tar file: {error}") from error
        end, joined = ("", str(error)) if isinstance(error, Joined) else (str(error), "")
    if not rows:
        raise ValueError(f"{file.uri} holds no picture with a label beside it")
    for key, own in zip(rows, labels, strict=True):
        # A number in one and a name in the other are two ways to write the same class.
        if len(own) > 1 and own["cls"] != own["json"] and len({*map(_is_name, own.values())}) == 1:
            conflict = conflict or _conflict(key, own["cls"], own["json"])
    return {
        "keys": list(rows),
        "labels": [own.get("cls", own.get("json")) for own in labels],
        "pictures": {
            suffix: [list(places), *map(list, zip(*places.values(), strict=True))]
            for suffix, places in pictures.items()
        },
        "unread": unread,
        "system": system,
        "strange": strange,
        "end": end,
        "joined": joined,
        "conflict": conflict,
    }


def _conflict(key: str, one: Any, other: Any) -> str:
    return f"{key} has two labels, {one!r} and {other!r}"


def _is_name(label: Any) -> bool:
    return isinstance(label, str)


def _kind(suffix: str) -> str:
    """A picture's suffix in lower case, `cls` or `json`; empty for one that is not read."""
    lower = suffix.lower()
    read = lower in ("cls", "json") or f".{lower}".endswith(SUFFIXES)
    return lower if read else ""


def _label(content: bytes) -> Any:
    """A number or a name; None for what is neither."""
    if content.isdigit():
        return int(content) if len(content) < 19 else None
    try:
        return _class(json.loads(content))
    except ValueError:
        text = content.decode(errors="backslashreplace").strip()
        return text or None


def _described(content: bytes) -> Any:
    """The entry label, class or cls of a description."""
    try:
        document = json.loads(content)
    except ValueError:
        return None
    if isinstance(document, dict):
        document = next((document[k] for k in ("label", "class", "cls") if k in document), None)
    return _class(document)


def _class(value: Any) -> Any:
    if isinstance(value, int) and abs(value) >= 2**62:
        return None
    return value if isinstance(value, (int, float, str)) else None


_READS_LABEL = {"cls": _label, "json": _described}
"""Suffix of labels -> from the content of such a member to a label, None without one."""

if __name__ == "__main__":
    main()
