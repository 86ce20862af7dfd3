"""Ends what a killed `aigc train` would leave behind: Ray's agents notice its death minutes later.

    python -m cluster.guard FOLDER

Reads `pid created` of Ray's processes, line by line, until the pipe from `aigc train` breaks.
"""

import shutil
import subprocess
import sys
from contextlib import suppress

import psutil

from cluster.local import end


def start(folder: str) -> "subprocess.Popen[str]":
    """Watch over this process and all that it has started; close its stdin to end the watch."""
    # In a session of its own, so that Ctrl-C in a terminal leaves it alone.
    guard = subprocess.Popen(
        [sys.executable, "-m", "cluster.guard", folder],
        stdin=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    assert guard.stdin is not None
    for process in psutil.Process().children(recursive=True):
        if process.pid != guard.pid:
            with suppress(psutil.Error):
                guard.stdin.write(f"{process.pid} {process.create_time()!r}\n")
    guard.stdin.flush()
    return guard


def main(folder: str) -> None:
    """Wait for the end of stdin, then leave nothing behind."""
    left = []
    known = [line.split() for line in sys.stdin]
    for pid, created in known:
        with suppress(psutil.Error):
            process = psutil.Process(int(pid))
            if process.create_time() == float(created):
                left.append(process)
    end(left)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1])
