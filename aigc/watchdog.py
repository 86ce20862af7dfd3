"""Ends the processes of a run with its command, even if the command is killed.

    os.environ[RUN_FOLDER] = str(folder)     # inherited by every process of the run
    watchdog = Watchdog(folder)              # ends the run should this process be killed
    watchdog.watch(run_processes(folder))    # known from now on by pid, whatever they exec
    ...
    end_run(folder, spare=[watchdog.pid])
    watchdog.close()

A run here is one command, such as `aigc train` or `aigc serve`, with all its processes; its folder
is a temporary one.

Ray's agents notice the death of the process that started them after minutes, or never. The watchdog
is a process of its own, which waits for the pipe from the command to break:

    python -m aigc.watchdog FOLDER           # reads `pid created`, line by line, from stdin
"""

import ctypes
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

import psutil

RUN_FOLDER = "AIGC_RUN_FOLDER"
"""Environment variable of every process of a run: the run's temporary folder."""

END_S = 10.0
"""Longest that killed processes may take to end."""

PR_SET_CHILD_SUBREAPER = 36
"""Option of prctl(2)."""


class Watchdog:
    """Handle of the process that ends a run if this one is killed."""

    def __init__(self, folder: Path) -> None:
        # In a session of its own, so that Ctrl-C in a terminal does not reach it.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "aigc.watchdog", str(folder)],
            stdin=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )
        self.pid = self._process.pid

    def watch(self, processes: Iterable[psutil.Process]) -> None:
        """Have these killed too, even if they lose their parent and their environment."""
        assert self._process.stdin is not None
        for process in processes:
            with suppress(psutil.Error):
                if process.pid != self.pid:
                    self._process.stdin.write(f"{process.pid} {process.create_time()!r}\n")
        self._process.stdin.flush()

    def close(self) -> None:
        """End the watchdog itself, once the run has ended."""
        self._process.kill()
        self._process.communicate()


def run_processes(folder: Path) -> list[psutil.Process]:
    """All processes of a run but this one: descendants, those with RUN_FOLDER, and theirs."""
    me = psutil.Process()
    processes = {process.pid: process for process in me.children(recursive=True)}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid not in processes and process.environ().get(RUN_FOLDER) == str(folder):
                processes |= {p.pid: p for p in (process, *process.children(recursive=True))}
    processes.pop(me.pid, None)
    return list(processes.values())


def end_run(
    folder: Path,
    known: Collection[psutil.Process] = (),
    *,
    grace_s: float = 0.0,
    spare: Collection[int] = (),
) -> None:
    """Kill `known` and all other processes of a run, then remove its folder.

    `known` may end by themselves for `grace_s` seconds. `spare`: pids of the watchdog, which has to
    outlive the others, and of children of this process that are none of the run. Raises
    RuntimeError if some do not end within END_S.
    """
    if grace_s:
        psutil.wait_procs(known, timeout=grace_s)
    done = set(spare)
    deadline = time.monotonic() + END_S
    while remaining := [
        process
        for process in {*known, *run_processes(folder)}
        if process.pid not in done and process.is_running()
    ]:
        for process in remaining:
            with suppress(psutil.Error):
                process.kill()
        _, left = psutil.wait_procs(remaining, timeout=1)  # reaps the children of this process
        # One that has ended and that its own parent does not reap is not waited for.
        done |= {process.pid for process in left if not is_alive(process)}
        if time.monotonic() > deadline:
            pids = ", ".join(str(process.pid) for process in remaining)
            raise RuntimeError(f"processes {pids} of this run do not end")
    shutil.rmtree(folder, ignore_errors=True)


def is_alive(process: psutil.Process) -> bool:
    """False for a process that has ended, also while its parent has not reaped it."""
    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def adopt_orphans() -> None:
    """Become the parent of every descendant that loses its own, from now on, on Linux.

    Ray has helpers that outlive their parent and do not carry the run's mark.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def main(folder: Path) -> None:
    """Wait for the end of stdin, then end the run."""
    started = [line.split() for line in sys.stdin]
    known = []
    for pid, created in started:
        with suppress(psutil.Error):
            process = psutil.Process(int(pid))
            if process.create_time() == float(created):
                known.append(process)
    adopt_orphans()
    end_run(folder, known)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
