"""The user's cache: where it is, and what happens without one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aigc import cache
from aigc.data.cache import cached
from aigc.training.object_store import local_folder


@pytest.mark.parametrize("named", ["", "relative", "./cache"])
def test_relative_cache_path_is_ignored(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder() == tmp_path / "aigc"
    monkeypatch.setenv("XDG_CACHE_HOME", named)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert cache.folder() == tmp_path / "home" / ".cache" / "aigc"
    assert local_folder("s3://bucket/run").is_relative_to(tmp_path / "home")
    assert cached("kind", ["fact"], lambda: 3) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_cache_files_are_written_atomically(tmp_path: Path) -> None:
    path = tmp_path / "a" / "file"
    cache.keep(path, b"old")
    cache.keep(path, b"new")
    assert path.read_bytes() == b"new"
    (tmp_path / "a" / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        cache.keep(tmp_path / "a" / "folder", b"new")
    assert sorted(p.name for p in path.parent.iterdir()) == ["file", "folder"]


def test_files_used_longest_ago_make_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only in the cache itself, never in another folder, and no folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cache, "LARGEST", 250)
    monkeypatch.setattr(cache, "LARGE", 85)
    for folder in (cache.folder(), tmp_path / "elsewhere"):
        for age, name in enumerate("abc", 1):
            cache.keep(folder / name, b"x" * 80)
            os.utime(folder / name, (1000 - age, 1000 - age))
        (folder / "engines").mkdir()
    assert cache.read(cache.folder() / "c") == b"x" * 80  # the oldest, but used now
    cache.keep(cache.folder() / "small", b"")  # has nothing make way
    assert len([*cache.folder().iterdir()]) == 5
    (cache.folder() / "small").unlink()
    cache.keep(cache.folder() / "d", b"x" * 90)
    cache.keep(tmp_path / "elsewhere" / "d", b"x" * 90)
    assert sorted(p.name for p in cache.folder().iterdir()) == ["a", "c", "d", "engines"]
    assert len([*(tmp_path / "elsewhere").iterdir()]) == 5
    cache.keep(cache.folder() / "large", b"x" * 300)
    assert sorted(p.name for p in cache.folder().iterdir()) == ["engines", "large"]


def test_uncacheable_value_is_computed_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    numbers = iter(range(9))
    assert [cached("kind", ["fact"], lambda: next(numbers)) for _ in range(2)] == [0, 1]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "good"))
    assert [cached("kind", ["fact"], lambda: next(numbers)) for _ in range(2)] == [2, 2]
    (kept,) = (tmp_path / "good" / "aigc").iterdir()
    kept.write_bytes(b"\xff cut off")
    assert [cached("kind", ["fact"], lambda: next(numbers)) for _ in range(2)] == [3, 3]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts a process as somebody else")
def test_user_without_home_has_no_cache_and_is_told() -> None:
    code = (
        "import os, pwd\n"
        "from aigc import cache\n"
        "os.setuid(4242)\n"
        "try: cache.folder()\n"
        "except OSError as error: print(error)"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_CACHE_HOME")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    wanted = "this user has no home for a cache; set HOME or XDG_CACHE_HOME to a folder"
    assert done.stdout.strip() == wanted
