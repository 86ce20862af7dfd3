"""One driver per run: fought for by real processes, killed and stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aigc.lease import Lease
from tests.s3 import s3_server

HOLDER = """
import sys, time
from aigc.lease import Lease
def lost(reason):
    print("lost", reason, flush=True)
with Lease(sys.argv[1], lost, length_s=float(sys.argv[2])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(scope="module", params=["local", "s3"])
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    if request.param == "local":
        yield str(tmp_path_factory.mktemp("run"))
        return
    with s3_server() as bucket:
        yield f"{bucket}/run"


def hold(place: str, length_s: float) -> "subprocess.Popen[str]":
    """A process that has the lease."""
    command = [sys.executable, "-c", HOLDER, place, str(length_s)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()


def take(place: str) -> None:
    with Lease(place, pytest.fail):
        pass


def test_a_second_driver_is_refused_by_name_and_a_dead_one_is_followed_at_once(place: str) -> None:
    first = hold(place, 60)
    with pytest.raises(ValueError, match=rf"is being trained by process {first.pid} on .*; stop"):
        take(place)
    end(first)
    take(place)
    take(place)  # and was given back


def test_a_driver_that_slept_past_its_lease_finds_that_it_lost_it(place: str) -> None:
    first = hold(place, 1.5)
    first.send_signal(signal.SIGSTOP)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            with Lease(place, pytest.fail, length_s=60):
                first.send_signal(signal.SIGCONT)
                assert first.stdout is not None
                assert "was taken over: its lease is process" in first.stdout.readline()
            break
        except ValueError:
            time.sleep(0.1)
    else:
        pytest.fail("the lease never ended")
    end(first)


def test_a_lease_is_renewed(place: str) -> None:
    first = hold(place, 1.5)
    time.sleep(3)
    with pytest.raises(ValueError, match="is being trained by"):
        take(place)
    end(first)
    take(place)


def test_a_driver_on_another_machine_counts_until_its_lease_ends(tmp_path: Path) -> None:
    found = {"owner": "x", "host": "elsewhere", "pid": os.getpid(), "started": 0.0}
    for left, refused in ((30.0, True), (-1.0, False)):
        text = json.dumps(found | {"expires": time.time() + left})
        (tmp_path / "lease.json").write_text(text)
        if refused:
            with pytest.raises(ValueError, match=r"on elsewhere; stop that, or wait (29|30) s"):
                take(str(tmp_path))
        else:
            take(str(tmp_path))
    (tmp_path / "lease.json").write_text("garbage")
    take(str(tmp_path))  # nobody can be held to that
