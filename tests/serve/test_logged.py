"""A replica's log on a running server: on the terminal, in Ray's files, as text and as JSON."""

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from aigc.artifact import Store
from serve.access.api_keys import CreateKey, key_entry
from tests.serve.artifacts import publish
from tests.serve.test_server import Server, run_folder, server

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

SECRET = "aigc_secret_of_anyone"
KEY = {"authorization": f"Bearer {SECRET}"}
KNOWN = 9
"""Samples of this class make the graph fail."""


@dataclass(kw_only=True)
class Logged:
    """A running server and what it was given."""

    server: Server
    form: str
    store: Path
    keys: Path
    logs: Path
    """Ray's."""

    def sample(self, request: str, **fields: object) -> httpx.Response:
        headers = KEY | {"x-request-id": request}
        body = {"model": "tiny", "label": KNOWN} | fields
        return httpx.post(f"{self.server.url}/v1/samples", json=body, headers=headers, timeout=30)

    def shown(self, text: str, within_s: float = 10) -> str:
        """The line of the terminal with a text; it stands in one of Ray's files, too."""
        deadline = time.monotonic() + within_s
        while not (found := [x for x in self.server.stderr.splitlines() if text in x]):
            assert time.monotonic() < deadline, self.server.stderr
            time.sleep(0.1)
        files = [path.read_text(errors="replace") for path in self.logs.glob("worker-*.err")]
        assert any(found[0] in file for file in files)
        if self.form == "json":
            assert json.loads(found[0])["level"] == "ERROR"
        else:
            assert " ERROR serve." in found[0]
        return found[0]


@pytest.fixture(scope="module", params=["text", "json"])
def logged(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Logged]:
    folder = tmp_path_factory.mktemp(f"logged-{request.param}")
    publish(Store(folder / "store"), folder / "build", "tiny", 0, known=KNOWN)
    keys = folder / "keys.toml"
    keys.write_text(key_entry(CreateKey(action="new", name="anyone"), SECRET))
    arguments = [f"{folder}/store/tiny@1", "--keys", str(keys), "--logs", request.param]
    with server(folder, *arguments) as running:
        running.wait_until_ready()
        (logs,) = (p for p in Path(run_folder(running)).glob("r/session_2*/logs"))
        yield Logged(
            server=running, form=request.param, store=folder / "store", keys=keys, logs=logs
        )


def test_a_500_is_found_by_its_request_s_id(logged: Logged) -> None:
    for i in range(3):
        assert logged.sample(f"failed-{i}").status_code == 500
    for i in range(3):
        line = logged.shown(f"failed-{i}")
        assert "POST /v1/samples failed" in line
    said = logged.server.stderr
    assert said.count("failed-1") == 1
    assert "indices element out of data bounds" in said


def test_a_stream_that_fails_is_found_by_its_request_s_id(logged: Logged) -> None:
    labels = [0] * 1000 + [KNOWN]
    answer = logged.sample("broken-stream", format="ndjson", n=len(labels), label=labels)
    assert (answer.status_code, "error" in answer.text.splitlines()[-1]) == (200, True)
    assert "a stream failed" in logged.shown("broken-stream")


def test_what_steers_a_terminal_does_not_reach_it(logged: Logged) -> None:
    good = logged.keys.read_text()
    logged.keys.write_text('[[key]]\nname = "\\u001b[2J\\u009b31mred\\nERROR forged"\n')
    line = logged.shown("a changed keys file is refused")
    assert "keys.toml" in line
    assert "\x1b" not in logged.server.stderr
    assert "\x9b" not in logged.server.stderr
    assert not any(x.startswith("ERROR forged") for x in logged.server.stderr.splitlines())
    logged.keys.write_text(good)


def test_replicas_that_do_not_start_say_why_and_not_in_hundreds_of_lines(logged: Logged) -> None:
    graph = logged.store / "tiny" / "1" / "numbers.onnx"
    shutil.copy(graph, logged.store / "kept")
    graph.write_bytes(graph.read_bytes()[:-1] + b"!")
    logged.server.replicas()[0].kill()
    line = logged.shown("a replica does not start", within_s=60)
    assert "'numbers.onnx' was altered" in line
    if logged.form == "json":
        return  # what follows is the same
    deadline = time.monotonic() + 60
    while "warning: pool default: " not in logged.server.stderr:
        assert time.monotonic() < deadline, logged.server.stderr
        time.sleep(0.2)
    time.sleep(5)
    assert logged.server.stderr.count("a replica does not start") <= 3
    shutil.copy(logged.store / "kept", graph)
    while httpx.get(f"{logged.server.url}/readyz", timeout=30).status_code != 200:
        assert time.monotonic() < deadline + 60, logged.server.stderr
        time.sleep(0.5)
