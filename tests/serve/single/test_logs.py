"""A replica's log as text, on the terminal and in Ray's files."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.serve.servers import Server, wait_until
from tests.serve.single.conftest import FREE, KNOWN, Guarded

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

KEY = {"authorization": f"Bearer {FREE}"}


@dataclass(kw_only=True)
class Logged:
    """A running server and what it was given."""

    server: Server
    store: Path
    keys: Path
    logs: Path
    """Ray's."""

    def sample(self, request: str, **fields: object) -> httpx.Response:
        headers = KEY | {"x-request-id": request}
        body = {"model": "failing", "label": KNOWN} | fields
        return httpx.post(f"{self.server.url}/v1/samples", json=body, headers=headers, timeout=30)

    def shown(self, text: str, within_s: float = 10) -> str:
        """The line of the terminal with a text; it stands in one of Ray's files, too."""
        deadline = time.monotonic() + within_s
        while not (found := [x for x in self.server.stderr.splitlines() if text in x]):
            assert time.monotonic() < deadline, self.server.stderr
            time.sleep(0.1)
        files = [path.read_text(errors="replace") for path in self.logs.glob("worker-*.err")]
        assert any(found[0] in file for file in files)
        assert " ERROR serve." in found[0]
        return found[0]


@pytest.fixture
def logged(guarded: Guarded) -> Logged:
    (logs,) = (p for p in Path(guarded.server.run_folder()).glob("r/session_2*/logs"))
    return Logged(server=guarded.server, store=guarded.store, keys=guarded.keys, logs=logs)


def test_failed_requests_are_logged_with_their_id(logged: Logged) -> None:
    for i in range(3):
        assert logged.sample(f"failed-{i}").status_code == 500
    for i in range(3):
        line = logged.shown(f"failed-{i}")
        assert "POST /v1/samples failed" in line
    said = logged.server.stderr
    assert said.count("failed-1") == 1
    assert "indices element out of data bounds" in said


def test_failed_streams_are_logged_with_their_id(logged: Logged) -> None:
    labels = [0] * 1000 + [KNOWN]
    answer = logged.sample("broken-stream", format="ndjson", n=len(labels), label=labels)
    assert (answer.status_code, "error" in answer.text.splitlines()[-1]) == (200, True)
    assert "a stream failed" in logged.shown("broken-stream")


def test_escape_sequences_do_not_reach_the_terminal(logged: Logged) -> None:
    good = logged.keys.read_text()
    logged.keys.write_text('[[key]]\nname = "\\u001b[2J\\u009b31mred\\nERROR forged"\n')
    line = logged.shown("a changed keys file is refused")
    assert "keys.toml" in line
    assert "\x1b" not in logged.server.stderr
    assert "\x9b" not in logged.server.stderr
    assert not any(x.startswith("ERROR forged") for x in logged.server.stderr.splitlines())
    logged.keys.write_text(good)


def test_replicas_that_do_not_start_say_why_in_few_lines(logged: Logged) -> None:
    graph = logged.store / "failing" / "1" / "numbers.onnx"
    shutil.copy(graph, logged.store / "kept")
    graph.write_bytes(graph.read_bytes()[:-1] + b"!")
    logged.server.replicas()[0].kill()
    line = logged.shown("a replica does not start", within_s=60)
    assert "'numbers.onnx' was altered" in line
    wait_until(lambda: "warning: pool default: " in logged.server.stderr)
    time.sleep(2)  # several attempts of Serve more
    assert logged.server.stderr.count("a replica does not start") <= 3
    shutil.copy(logged.store / "kept", graph)
    ready = f"{logged.server.url}/readyz"
    wait_until(lambda: httpx.get(ready, timeout=30).status_code == 200)
