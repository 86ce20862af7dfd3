"""Private folders with room for the paths of Unix sockets."""

import logging
import socket
import stat
from pathlib import Path

import pytest

from aigc import private

LIKE_MACOS = "var/folders/zz/zyxvpxvq6csfxvn_n0000000000000/T"
ROOM = 78


def sockets_fit(folder: Path, room: int) -> bool:
    """Bind one at a path so long below the folder."""
    path = folder / ("s" * (room - 1))
    try:
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(str(path))
    except OSError:
        return False
    path.unlink()
    return True


@pytest.fixture
def long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / LIKE_MACOS
    folder.mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def test_long_tmpdir_is_replaced_where_sockets_would_not_fit(
    long: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        folder = private.make(socket_path=ROOM)
    try:
        assert sockets_fit(folder, ROOM)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (said,) = caplog.messages
        assert f"{long} is too long a path for Unix sockets" in said
        assert str(folder) in said
        assert list(long.iterdir()) == []
    finally:
        folder.rmdir()


def test_tmpdir_is_used_to_the_last_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    own = len(str(tmp_path)) + len("/aigc-") + 8
    monkeypatch.setattr(private, "SHORT", str(tmp_path / "short"))
    (tmp_path / "short").mkdir()
    room = private.MAX_SOCKET_PATH - own
    exact = private.make(socket_path=room)
    assert exact.parent == tmp_path
    assert sockets_fit(exact, room)
    assert not sockets_fit(exact, room + 1)
    assert private.make(socket_path=room + 1).parent.name == "short"


def test_any_length_serves_without_sockets(long: Path) -> None:
    assert private.make().parent == long


def test_start_is_refused_without_a_short_folder(
    long: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private, "SHORT", str(long / "absent"))
    with pytest.raises(ValueError, match=r"too long a path .* by \d+ bytes; set TMPDIR to a short"):
        private.make(socket_path=ROOM)
    assert list(long.iterdir()) == []
