"""X-Request-Timeout: what cannot be begun in time is not run, and refused at once if known."""

import threading
import time
from typing import Any

import httpx
import pytest

from tests.serve.client import code_of
from tests.serve.listening import Gate, Listening, settled


def ask(served: Listening, timeout: str, n: int = 4) -> httpx.Response:
    body: dict[str, Any] = {"model": "tiny", "n": n, "format": "npy"}
    headers = {"x-request-timeout": timeout} if timeout else {}
    return httpx.post(f"{served.url}/v1/samples", json=body, headers=headers, timeout=30)


@pytest.mark.parametrize("timeout", ["0", "-1", "nan", "inf", "soon", "3601"])
def test_malformed_request_timeouts_are_refused(timeout: str, served: Listening) -> None:
    answer = ask(served, timeout)
    assert code_of(answer) == (400, "malformed_header")


def test_a_request_within_its_timeout_is_answered(served: Listening) -> None:
    assert ask(served, "20").status_code == 200


def test_a_request_that_has_not_begun_by_its_deadline_is_not_run(
    served: Listening, gate: Gate
) -> None:
    gate.free = 0
    holding = threading.Thread(target=ask, args=(served, ""))
    holding.start()
    settled(lambda: gate.runs == 1)
    began = time.monotonic()
    answer = ask(served, "0.3")
    assert time.monotonic() - began < 5
    assert code_of(answer) == (504, "deadline_exceeded")
    assert served.probe.queued == 0
    gate.open.set()
    holding.join()
    assert gate.runs == 1, "it was not run when the graph was free again"


def test_a_request_that_would_miss_its_deadline_is_refused_at_once(
    served: Listening, gate: Gate
) -> None:
    gate.slow_s = 0.2
    for _ in range(3):
        assert ask(served, "").status_code == 200  # now the pace is known: 20 samples/s
    answer = ask(served, "0.5", n=100)
    assert code_of(answer) == (503, "overloaded")
    assert "longer than the deadline allows" in answer.json()["error"]["message"]
    assert int(answer.headers["retry-after"]) >= 1


def test_a_waiting_request_leaves_the_queue_when_its_client_hangs_up(
    served: Listening, gate: Gate
) -> None:
    gate.free = 0
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{served.url}/v1/samples", json={"model": "tiny", "n": 100}, timeout=0.5)
    settled(lambda: served.requests(code="499") == 1)
    assert served.probe.queued == 0
    gate.open.set()
    settled(lambda: served.probe.batcher.running_since_s is None)
    assert gate.runs == 1
