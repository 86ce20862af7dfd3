"""Temporary folders that no other user of the machine can read, write or replace.

    folder = private.make()       # 0700, below TMPDIR
    ray.init(_temp_dir=str(folder / "ray"))
    private.check(folder)         # still private

A program that opens its own folders to every user, as Ray does, gets a folder below a private one,
which other users cannot enter.
"""

import grp
import logging
import os
import pwd
import shutil
import stat
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from aigc.own_code.entry_point import shadowed

MIN_FREE_BYTES = 64 << 20
"""Least free space: less is not enough for the logs of a start."""


MAX_SOCKET_PATH = 107 if sys.platform == "linux" else 103
"""Longest path of a Unix socket, in bytes."""
SHORT = "/tmp"
"""Parent of a folder whose path would be too long below TMPDIR."""

log = logging.getLogger(__name__)


def make(prefix: str = "aigc-", *, socket_path: int = 0) -> Path:
    """Create a private folder below TMPDIR.

    `socket_path`: bytes of the longest path of a Unix socket below it. Where that does not fit
    below TMPDIR, the folder is created in /tmp, with a warning. Raises ValueError if TMPDIR, or
    then /tmp, is not writable, is nearly full, or can be replaced by other users.
    """
    named = os.environ.get("TMPDIR", "")
    if named:
        # tempfile would silently take another folder.
        reason = "" if Path(named).is_dir() else "is no folder"
        if not reason and not os.access(named, os.W_OK | os.X_OK):
            reason = "is a folder that you may not write to"
        if reason:
            raise ValueError(f"TMPDIR={named} {reason}; set it to one that you may write to")
    try:
        where = named or tempfile.gettempdir()
    except OSError as error:
        raise ValueError(f"{error.strerror or error}; make room or set TMPDIR") from None
    folder = _create(where, prefix)
    over = len(os.fsencode(folder)) + socket_path - MAX_SOCKET_PATH
    if not socket_path or over <= 0:
        return folder
    folder.rmdir()
    long = f"{where} is too long a path for Unix sockets, by {over} bytes"
    try:
        folder = _create(SHORT, prefix)
    except ValueError as error:
        raise ValueError(f"{long}; set TMPDIR to a short one ({error})") from None
    log.warning("%s; %s is used", long, folder)
    return folder


def _create(where: str, prefix: str) -> Path:
    try:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=where)).absolute()
    except OSError as error:
        raise ValueError(
            f"cannot make a folder in {where}: {error.strerror or error}; make room or set TMPDIR"
        ) from None
    try:
        check(folder)
        free = shutil.disk_usage(folder).free
        if free < MIN_FREE_BYTES:
            raise ValueError(
                f"{folder.parent} has {free >> 20} MiB free, at least {MIN_FREE_BYTES >> 20} are"
                " needed; make room or set TMPDIR to another folder"
            )
    except ValueError:
        folder.rmdir()
        raise
    return folder


def check_working_folder(package: str) -> None:
    """Raise ValueError if the working folder of this process was deleted, or holds something that
    Python takes for `package`: processes that are started look for modules there first."""
    try:
        here = str(Path.cwd())
    except OSError:
        raise ValueError("the folder that you are in was deleted; cd to one that exists") from None
    for name in ("aigc", package):
        if reason := shadowed(name, [here, *sys.path]):
            raise ValueError(reason)


def check(folder: Path) -> None:
    """Raise ValueError if another user can enter or replace `folder`."""
    status = folder.lstat()
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or mode & 0o077:
        raise ValueError(
            f"{folder} cannot be kept from other users: its mode is {mode:04o}, not 0700, or it is"
            " not yours; set TMPDIR to a folder on a file system with permissions"
        )
    check_path(folder)


def check_path(path: Path) -> None:
    """Raise ValueError if a user other than root and this one can replace what `path` names.

    Such a user may write to a folder on the path, unless its sticky bit protects the files of
    others.
    """
    real = path.resolve()
    for each in {*real.parents, *path.absolute().parents}:
        status = each.stat()
        mode = status.st_mode
        by_others = mode & stat.S_IWOTH or (mode & stat.S_IWGRP and _others_in(status.st_gid))
        foreign = status.st_uid not in (0, os.geteuid()) and not _is_unmapped(status.st_uid)
        if foreign or (by_others and not mode & stat.S_ISVTX):
            raise ValueError(
                f"other users can replace {path}: {each} is {stat.filemode(mode)} of user"
                f" {_name(status.st_uid)}; use a folder that only you, or root, may write to"
            )


def _is_unmapped(uid: int) -> bool:
    """True for an owner outside of this user namespace, whom no process inside can become."""
    with suppress(OSError, ValueError):
        whole = Path("/proc/self/uid_map").read_text().split() == ["0", "0", str(2**32 - 1)]
        return not whole and uid == int(Path("/proc/sys/kernel/overflowuid").read_text())
    return False


def _others_in(gid: int) -> bool:
    """True if a group has members beside root and this user."""
    me = os.geteuid()
    members = {user.pw_uid for user in pwd.getpwall() if user.pw_gid == gid}
    with suppress(KeyError):
        for name in grp.getgrgid(gid).gr_mem:
            with suppress(KeyError):
                members.add(pwd.getpwnam(name).pw_uid)
    return bool(members - {0, me})


def _name(uid: int) -> str:
    with suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return str(uid)
