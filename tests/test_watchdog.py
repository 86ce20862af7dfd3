"""A run's processes and folder go with its command, also when that is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from aigc import watchdog

pytestmark = pytest.mark.process

COMMAND = """
import os, subprocess, sys, time
from pathlib import Path
from aigc.watchdog import RUN_FOLDER, Watchdog, run_processes

folder = Path(sys.argv[1])
os.environ[RUN_FOLDER] = str(folder)
guard = Watchdog(folder)
sleeping = [sys.executable, "-c", "import time; time.sleep(300)"]
known = subprocess.Popen(["env", "-i", *sleeping], start_new_session=True)
guard.watch(run_processes(folder))
# Started later: known by the environment that it inherits.
marked = subprocess.Popen(sleeping, start_new_session=True)
print(guard.pid, known.pid, marked.pid, flush=True)
time.sleep(300)
"""


def test_killed_command_ends_its_processes_and_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    command = subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert command.stdout is not None
    with command.stdout:
        processes = [psutil.Process(int(pid)) for pid in command.stdout.readline().split()]
        command.send_signal(signal.SIGKILL)
        command.wait()
        _, alive = psutil.wait_procs(processes, timeout=30)
        ended = [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        assert ended == []
    deadline = time.monotonic() + 10
    while folder.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_end_run_gives_grace_reaps_and_spares_the_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    monkeypatch.setenv(watchdog.RUN_FOLDER, str(folder))
    others = [process.pid for process in psutil.Process().children(recursive=True)]
    guard = watchdog.Watchdog(folder)
    done = tmp_path / "done"
    quick = subprocess.Popen(
        [sys.executable, "-c", "import sys, time; time.sleep(0.5); open(sys.argv[1], 'x')", done]
    )
    slow = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    ended = subprocess.Popen([sys.executable, "-c", ""])
    zombie = psutil.Process(ended.pid)
    while zombie.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.02)
    known = [psutil.Process(process.pid) for process in (quick, slow)]
    watchdog.end_run(folder, known, grace_s=5.0, spare=[*others, guard.pid, other.pid])
    assert done.exists()
    assert (quick.poll(), slow.poll()) == (0, 0)  # both were reaped by psutil
    assert other.poll() is None
    other.kill()
    other.wait()
    assert not psutil.pid_exists(ended.pid)
    assert ended.poll() == 0
    assert not folder.exists()
    assert psutil.pid_exists(guard.pid)
    guard.close()
    assert not psutil.pid_exists(guard.pid)


def test_reused_pid_is_left_alone(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    process = psutil.Process(other.pid)
    environment = {k: v for k, v in os.environ.items() if k != watchdog.RUN_FOLDER}
    done = subprocess.run(
        [sys.executable, "-m", "aigc.watchdog", str(tmp_path / "run")],
        input=f"{process.pid} {process.create_time() - 1!r}\n",
        env=environment,
        text=True,
    )
    assert done.returncode == 0
    assert process.is_running()
    process.kill()
    other.wait()
