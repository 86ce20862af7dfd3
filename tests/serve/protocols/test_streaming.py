"""Samples as lines: the first comes before the last is made, and hanging up ends the work."""

import json
from typing import Any

import httpx
import pytest

from tests.serve.listening import Gate, Listening, settled


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "seed": 7, "format": "ndjson", **fields}


def records(answer: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line) for line in answer.iter_lines()]


def whole(served: Listening, **fields: Any) -> list[dict[str, Any]]:
    answer = httpx.post(f"{served.url}/v1/samples", json=body(**fields))
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return records(answer)


@pytest.mark.parametrize("n", [1, 4, 5, 30])
@pytest.mark.parametrize("label", [None, 3, "each"])
def test_the_lines_are_the_samples_of_the_whole_answer(
    served: Listening, n: int, label: Any
) -> None:
    fields: dict[str, Any] = {"n": n, "first_index": 5}
    if label is not None:
        fields["label"] = [i % 10 for i in range(n)] if label == "each" else label
    together = httpx.post(f"{served.url}/v1/samples", json=body(**fields, format="json"))
    assert whole(served, **fields) == together.json()["samples"]


def test_numbers_are_streamed_as_well(served: Listening) -> None:
    fields = {"signature": "numbers", "n": 9}
    together = httpx.post(f"{served.url}/v1/samples", json=body(**fields, format="json"))
    assert whole(served, **fields) == together.json()["samples"]


def test_the_first_line_comes_before_the_second_batch_is_made(
    served: Listening, gate: Gate
) -> None:
    gate.free = 1
    with httpx.stream("POST", f"{served.url}/v1/samples", json=body(n=20)) as answer:
        assert answer.headers["x-aigc-seed"] == "7"
        assert "content-length" not in answer.headers
        lines = answer.iter_lines()
        first = [json.loads(next(lines))["index"] for _ in range(4)]
        settled(lambda: gate.runs == 2)
        assert served.probe.queued == 0, "no part of the stream competes with another"
        gate.open.set()
        assert first + [json.loads(line)["index"] for line in lines] == list(range(20))
    settled(lambda: served.requests(code="200") == 1)


def test_hanging_up_takes_the_rest_out_of_the_queue(served: Listening, gate: Gate) -> None:
    gate.free = 1
    batcher = served.probe.batcher
    with httpx.stream("POST", f"{served.url}/v1/samples", json=body(n=100)) as answer:
        chunks = answer.iter_lines()  # kept: letting go of it hangs up
        next(chunks)
        settled(lambda: gate.runs == 2)
    settled(lambda: served.requests(code="499") == 1)
    assert batcher.queued == 0
    gate.open.set()
    settled(lambda: batcher.running_since_s is None)
    assert gate.runs == 2
    assert len(whole(served, n=3)) == 3


def test_a_batch_that_fails_ends_the_lines_with_the_error(served: Listening, gate: Gate) -> None:
    gate.fails_at = 3
    found = whole(served, n=20)
    assert [line["index"] for line in found[:-1]] == list(range(8))
    assert set(found[-1]) == {"error"}
    assert found[-1]["error"]["code"] == "internal"
    settled(lambda: served.requests(code="500") == 1)


def test_shutdown_is_the_last_line_of_a_stream(served: Listening, gate: Gate) -> None:
    gate.free = 1

    async def close() -> None:
        served.probe.batcher.close()

    with httpx.stream("POST", f"{served.url}/v1/samples", json=body(n=40)) as answer:
        lines = answer.iter_lines()
        next(lines)
        settled(lambda: gate.runs == 2)
        served.run(close())
        gate.open.set()
        found = [json.loads(line) for line in lines]
    assert found[-1]["error"]["code"] == "shutting_down"
    assert found[-1]["error"]["type"] == "server_error"
    refused = httpx.post(f"{served.url}/v1/samples", json=body(n=2))
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "shutting_down"
    settled(lambda: served.requests(code="503") == 2)
