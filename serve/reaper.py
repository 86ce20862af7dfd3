"""Ends what a killed `aigc serve` would leave behind: Ray's agents do not notice its death.

    python -m serve.reaper FOLDER

Reads `pid created` of the run's processes, line by line, until the pipe from `aigc serve` breaks.
"""

import sys
from pathlib import Path

import psutil

from serve.machine import Run, end


def main(folder: Path) -> None:
    """Wait for the end of stdin, then for nothing."""
    known = {}
    for line in sys.stdin:
        pid, created = line.split()
        known[int(pid)] = float(created)
    run = Run(folder=folder, haproxy=None)
    left = []
    for pid, created in known.items():
        try:
            process = psutil.Process(pid)
            if process.create_time() == created:
                left.append(process)
        except psutil.Error:
            continue
    end(run, left)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
