"""A run that does not end: its requests are told so, nobody runs them again, the rest goes on."""

import asyncio
import logging
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from aigc.artifact import Store
from aigc.artifact.graph import check_graph
from aigc.artifact.sampling_inputs import Arrays
from serve.batching.batcher import Batcher
from serve.batching.jobs import RunTooLongError, StuckError
from serve.hosting.memory_budget import MemoryBudget
from serve.hosting.models import LONGEST_S, SLOWER, ModelLoader, longest_s
from serve.metrics import Metrics
from serve.settings import Limits, Settings, parse
from tests.serve.batching.runners import Doubler
from tests.serve.faulty import BAD_LABEL, publish_faulty
from tests.serve.listening import listening, settled


@pytest.fixture(scope="module")
def looper(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Label 1 loops for ever."""
    root = tmp_path_factory.mktemp("looper")
    return publish_faulty(Store(root), root / "build", "looper", "loop")


def ask(url: str, label: int, **headers: str) -> httpx.Response:
    body = {"model": "looper", "label": label, "seed": 7, "format": "npy"}
    return httpx.post(f"{url}/v1/samples", json=body, headers=headers, timeout=60)


def error(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


@pytest.mark.process
def test_a_run_without_end_gets_504_and_turns_the_replica_unready(
    looper: str, metrics_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limits = Limits(max_batch_seconds=1.0)
    with (
        listening(Settings(metrics_dir=str(metrics_dir), limits=limits), looper) as served,
        ThreadPoolExecutor(4) as threads,
    ):
        for _ in range(30):  # it is known to be short by now, and still runs in the thread
            assert ask(served.url, 0).status_code == 200
        began = time.monotonic()
        looping = threads.submit(ask, served.url, BAD_LABEL, **{"x-request-id": "of-the-loop"})
        settled(lambda: served.probe.batcher.running_since_s is not None)
        waiting = threads.submit(ask, served.url, 0)
        assert httpx.get(f"{served.url}/healthz").status_code == 200, "the event loop is free"
        assert error(looping.result()) == (504, "run_too_long")
        assert error(waiting.result()) == (503, "shutting_down")
        assert waiting.result().headers["retry-after"] == "1"
        assert time.monotonic() - began < 10
        refused = ask(served.url, 0)
        assert error(refused) == (503, "shutting_down")
        assert "does not end, so it is being replaced" in refused.text
        assert httpx.get(f"{served.url}/readyz").status_code == 503
        assert httpx.get(f"{served.url}/v2/health/ready").status_code == 503
        with pytest.raises(RuntimeError, match=r"did not end within limits\.max_batch_seconds"):
            served.replica.check_health()
        labels = {"model": "looper", "version": "1", "signature": "sample"}
        assert served.probe.count("aigc_runs_too_long_total", **labels) == 1
        assert served.probe.queued == 0
        # onnxruntime ends the loop when it is asked to, so that nothing is left of it.
        settled(lambda: served.probe.batcher.is_idle)
    (record,) = [one for one in caplog.records if one.name == "serve.hosting.runner"]
    assert (record.levelno, record.request_id) == (logging.ERROR, "of-the-loop")  # type: ignore[attr-defined]
    assert "looper@1, signature sample: a run with these samples" in record.getMessage()


class Held(Doubler):
    """A runner that does not come back, and takes no hint."""

    max_seconds = 0.3

    def __init__(self) -> None:
        super().__init__(4)
        self.let_go = threading.Event()

    def run(self, inputs: Mapping[str, Any]) -> Arrays:
        if 13 in inputs["x"]:
            self.let_go.wait(60)
        return super().run(inputs)

    def stop(self) -> None:
        raise RuntimeError("it cannot be asked")


def test_a_thread_that_never_returns_fails_its_jobs_and_those_behind() -> None:
    async def main() -> None:
        runner, other, batcher = Held(), Doubler(4), Batcher(max_queue=100)
        failed: list[type[Exception]] = []
        for one in (runner, other):
            one.observe_failure = lambda job, error: failed.append(type(error))  # type: ignore[method-assign]
        jobs = [runner.job(12, 2), runner.job(20, 1), runner.job(30, 9), other.job(0, 3)]
        tasks = [asyncio.create_task(batcher.submit(job)) for job in jobs]
        outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20)
        # The third had a sample in the batch, the fourth waited for the thread.
        assert [type(one) for one in outcomes] == [*[RunTooLongError] * 3, StuckError]
        assert failed == [RunTooLongError] * 3
        assert (batcher.queued, batcher.is_stuck, batcher.work_s) == (0, True, 0)
        with pytest.raises(StuckError):
            await batcher.submit(other.job(0, 1))
        runner.let_go.set()
        batcher.close()

    asyncio.run(main())


def test_graphs_with_loops_are_not_bounded(looper: str, store: Path) -> None:
    memory = MemoryBudget(limit_bytes=1 << 40)
    loader = ModelLoader(
        threads=1, max_batch=4, memory=memory, metrics=Metrics(), batcher=Batcher(max_queue=1)
    )
    bounded = {
        runner.name + uri: runner.is_bounded  # type: ignore[attr-defined]
        for uri in (looper, f"{store}/tiny/1")
        for runner in loader.open(uri).runners.values()
    }
    assert bounded.pop(f"sample{looper}") is False
    assert set(bounded.values()) == {True}


def test_check_graph_finds_loops_in_functions_and_branches(looper: str, store: Path) -> None:
    from onnx import TensorProto, helper

    def is_bounded(data: bytes) -> bool:
        return check_graph("sample.onnx", data, {}).is_bounded

    assert not is_bounded((Path(looper) / "sample.onnx").read_bytes())
    assert is_bounded((Path(store) / "tiny" / "1" / "sample.onnx").read_bytes())
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None])
    body = helper.make_graph([helper.make_node("Exp", ["a"], ["b"])], "body", [], [])
    body.input.add().name, body.output.add().name = "a", "b"
    scan = helper.make_node("Scan", ["x"], ["y"], num_scan_inputs=1, body=body)
    opset = [helper.make_opsetid("", 20)]
    for called, bounded in ((scan, False), (helper.make_node("Exp", ["x"], ["y"]), True)):
        inside = helper.make_function("own", "Twice", ["x"], ["y"], [called], opset)
        twice = helper.make_node("Twice", ["x"], ["y"], domain="own")
        graph = helper.make_graph([twice], "g", [value], [])
        model = helper.make_model(graph, functions=[inside])
        assert is_bounded(model.SerializeToString()) is bounded


def test_the_longest_run_follows_from_a_measured_one() -> None:
    assert longest_s(0.01) == LONGEST_S
    assert longest_s(10) == SLOWER * 10
    assert parse({"limits": {"max_batch_seconds": 5}}).limits.max_batch_seconds == 5
    assert Limits().max_batch_seconds is None
    for wrong in (0.5, 0, -1, float("nan")):
        with pytest.raises(ValueError, match="max_batch_seconds must be at least 1"):
            Limits(max_batch_seconds=wrong)
