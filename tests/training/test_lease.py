"""Two drivers never train one run: taken, renewed, released, run out, lost, on disk and on S3."""

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from aigc.training.lease import LEASE, Lease, LeaseLost
from aigc.training.object_store import filesystem, is_remote

pytestmark = pytest.mark.process

PATIENCE_S = 60

DRIVER = """
import sys, threading
from aigc.training.lease import Lease, LeaseLost

lost = threading.Event()
def tell(reason):
    print("lost:", reason, flush=True)
    lost.set()

with Lease(sys.argv[1], lost=tell, length_s=float(sys.argv[2])) as lease:
    lease.check()
    print("held", flush=True)
    lost.wait()
    try:
        lease.check()
    except LeaseLost:
        print("refused", flush=True)
"""


@pytest.fixture(params=["disk", "s3"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Place of a run: a folder, or a prefix of a bucket."""
    if request.param == "disk":
        return str(tmp_path / "run")
    return f"{request.getfixturevalue('bucket')}/runs/digits"


def never(reason: str) -> None:
    pytest.fail(f"the lease was lost: {reason}")


def content(run: str) -> dict[str, Any]:
    if is_remote(run):
        fs, root = filesystem(run)
        return dict(json.loads(fs.cat_file(f"{root}/{LEASE}")))
    return dict(json.loads((Path(run) / LEASE).read_bytes()))


def write(run: str, data: bytes) -> None:
    if is_remote(run):
        fs, root = filesystem(run)
        fs.pipe_file(f"{root}/{LEASE}", data)
    else:
        Path(run).mkdir(exist_ok=True)
        (Path(run) / LEASE).write_bytes(data)


def elsewhere(run: str, ends: float) -> None:
    """A lease of another machine, whose processes nobody here can look for."""
    with Lease(run, lost=never):
        held = content(run)
    write(run, json.dumps(held | {"host": "far", "machine": "far", "ends": ends}).encode())


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


@contextmanager
def driver(run: str, length_s: float) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds the lease."""
    command = [sys.executable, "-c", DRIVER, run, str(length_s)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_lease_refusal_names_holder_and_end(run: str) -> None:
    with Lease(run, lost=never) as lease:
        lease.check()
        message = rf"being trained by process {os.getpid()} on .* lease ends at \d{{4}}-.*another"
        with pytest.raises(ValueError, match=message), Lease(run, lost=never):
            pass


def test_released_lease_is_taken_without_a_warning(
    run: str, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        with Lease(run, lost=never):
            assert not content(run)["released"]
        assert content(run)["released"]
    with pytest.raises(KeyError), Lease(run, lost=never):
        raise KeyError  # a driver that fails releases as well
    assert content(run)["released"]
    assert caplog.text == ""


def test_live_lease_is_renewed(run: str) -> None:
    with Lease(run, lost=never, length_s=1.5) as lease:
        first = content(run)["ends"]
        until(lambda: content(run)["ends"] > first + 1.5)
        lease.check()


def test_lease_of_another_machine_holds_until_it_ends(
    run: str, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere(run, ends=time.time() + 60)
    with pytest.raises(ValueError, match=r"trained by process .* on far"), Lease(run, lost=never):
        pass
    write(run, json.dumps(content(run) | {"ends": time.time() - 1}).encode())
    with Lease(run, lost=never):
        assert content(run)["machine"] != "far"
    assert "on far ended at" in caplog.text


def test_lease_of_a_killed_driver_is_taken_at_once(
    run: str, caplog: pytest.LogCaptureFixture
) -> None:
    with driver(run, length_s=3600) as other:
        with pytest.raises(ValueError, match=f"process {other.pid} on"), Lease(run, lost=never):
            pass
        other.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # dead, not yet reaped
        with Lease(run, lost=never) as lease:
            lease.check()
    assert f"process {other.pid} on" in caplog.text
    assert "is gone" in caplog.text


def test_reused_pid_is_not_the_holder(run: str) -> None:
    with Lease(run, lost=never):
        held = content(run)
    write(run, json.dumps(held | {"started": held["started"] - 100}).encode())
    with Lease(run, lost=never):
        pass


def test_driver_stopped_past_its_lease_loses_it(run: str, caplog: pytest.LogCaptureFixture) -> None:
    with driver(run, length_s=2) as other:
        other.send_signal(signal.SIGSTOP)
        until(lambda: content(run)["ends"] < time.time())
        with Lease(run, lost=never) as lease:
            assert f"the lease of process {other.pid}" in caplog.text
            other.send_signal(signal.SIGCONT)
            out, _ = other.communicate(timeout=PATIENCE_S)
            lost, refused = out.splitlines()
            assert lost.startswith(f"lost: {run} was taken over by process {os.getpid()} on")
            assert refused == "refused"
            assert content(run)["pid"] == os.getpid()  # and it released nothing of ours
            lease.check()


def test_check_reads_the_store_when_a_renewal_is_late(
    run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After SIGCONT training may go on before the renewing thread does."""
    reasons: list[str] = []
    with Lease(run, lost=reasons.append) as lease:
        write(run, json.dumps(content(run) | {"id": "another", "pid": 1}).encode())
        lease.check()  # not late: nobody can have taken it over
        clock = time.clock_gettime
        monkeypatch.setattr(time, "clock_gettime", lambda which: clock(which) + 16)
        with pytest.raises(LeaseLost, match="taken over by process 1 on"):
            lease.check()
        with pytest.raises(LeaseLost):
            lease.check()
    assert len(reasons) == 1
    assert content(run)["id"] == "another"


def test_claim_is_checked_on_other_machines(run: str) -> None:
    with Lease(run, lost=never) as lease:
        claim = pickle.loads(pickle.dumps(lease.claim))
        claim.check()
        write(run, json.dumps(content(run) | {"id": "other", "host": "far", "pid": 7}).encode())
        with pytest.raises(LeaseLost, match="was taken over by process 7 on far"):
            claim.check()
        write(run, json.dumps(content(run) | {"id": claim.id}).encode())


def test_one_of_many_drivers_takes_an_ended_lease(run: str) -> None:
    elsewhere(run, ends=time.time() - 1)
    contenders = 6
    together, done = threading.Barrier(contenders), threading.Barrier(contenders)
    outcomes: list[str] = []

    def fight() -> None:
        together.wait()
        try:
            with Lease(run, lost=never):
                outcomes.append("won")
                done.wait()
        except ValueError as error:
            outcomes.append(str(error))
            done.wait()

    threads = [threading.Thread(target=fight) for _ in range(contenders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("won") == 1
    assert sum(f"{run} is being t" in outcome for outcome in outcomes) == contenders - 1


def test_malformed_lease_is_refused_and_kept(run: str) -> None:
    for data in (b"{", b"[]", b'{"pid": 1}', b"null"):
        write(run, data)
        with pytest.raises(ValueError, match="is not a lease"), Lease(run, lost=never):
            pass


def test_lease_refuses_wrong_places_and_lengths(s3: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"folder or s3://.*got 'memory://x'"):
        Lease("memory://x", lost=never)
    with pytest.raises(ValueError, match="length_s must be > 0, got 0"):
        Lease(tmp_path, lost=never, length_s=0)
    with pytest.raises(ValueError, match="create it first"), Lease("s3://absent/x", lost=never):
        pass
