"""Models of another pool in one process: whoever asks cannot tell, refusals and ends included."""

import asyncio
import io
import json
import pickle
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from aigc.artifact import Artifact, ArtifactError, Store
from serve.hosting.desired_models import DesiredModels, DesiredModelsStore
from serve.hosting.models import HostedModel, ModelLoader
from serve.hosting.pool_client import (
    ATTEMPTS,
    PoolClient,
    PoolRefusal,
    PoolRequest,
    PoolResult,
    ReplicaLostError,
    UnreachedError,
)
from serve.hosting.pool_worker import ModelReplica
from serve.ingress import IngressReplica
from serve.protocols.oip import protobuf
from serve.protocols.oip.protobuf import add_to_server
from serve.settings import Limits, PoolSettings, Settings
from tests.serve.artifacts import publish
from tests.serve.client import Client, code_of
from tests.serve.hosting.pools import Beside
from tests.serve.listening import Gate, servicer
from tests.serve.probe import Probe

LIMITS = Limits(max_batch=4, max_n=100, max_queue=100)


class Both:
    """tiny@1 hosted by the replica that is asked, and by another pool's behind it."""

    def __init__(self, store: Path, metrics_dir: Path, runner: asyncio.Runner, *more: str) -> None:
        def settings(name: str, **pools: PoolSettings) -> Settings:
            folder = str(metrics_dir / name)  # a process announces itself once in each
            return Settings(metrics_dir=folder, limits=LIMITS, admin_without_key=True, pools=pools)

        large = PoolSettings(limits=LIMITS, replicas=(1, 2))
        self.run = runner.run
        large_target = DesiredModels(artifacts=(f"{store}/tiny@1", *more))
        self.target = DesiredModels(artifacts=(f"{store}/tiny@2",), pools={"large": large_target})
        self.worker = ModelReplica(
            settings("large", large=large).replica_settings("large"), "of-large"
        )
        self.beside = Beside(self.worker)
        config = DesiredModelsStore(read=self.read, swap=self.swap)
        ways = {"large": self.beside}
        ingress = IngressReplica(
            settings("ingress", large=large), "replica-7", config, connections=ways
        )
        alone = IngressReplica(settings("alone"), "replica-7", config)
        runner.run(self.worker.configure(self.target.pools["large"].document()))
        runner.run(ingress.configure(self.target.document()))
        own = DesiredModels(artifacts=(f"{store}/tiny@1", f"{store}/tiny@2", *more))
        runner.run(alone.configure(own.document()))
        self.remote, self.local = Client(ingress, runner), Client(alone, runner)

    async def read(self) -> tuple[DesiredModels, str]:
        return self.target, repr(self.target)

    async def swap(self, version: str, target: DesiredModels) -> bool:
        if version != repr(self.target):
            return False
        self.target = target
        await self.remote.replica.configure(target.document())
        await self.worker.configure(target.pools["large"].document())
        return True

    def settle(self) -> None:
        async def loaded() -> None:
            for one in (self.worker, self.remote.replica):
                await Probe(one).loaded()

        self.run(loaded())

    def close(self) -> None:
        self.run(self.remote.close())
        self.run(self.local.close())
        self.worker.close()


@pytest.fixture
def both(store: Path, metrics_dir: Path) -> Iterator[Both]:
    with asyncio.Runner() as runner:
        made = Both(store, metrics_dir, runner)
        try:
            yield made
        finally:
            made.close()


@pytest.fixture
def with_words(store: Path, words: str, metrics_dir: Path) -> Iterator[Both]:
    """words@1 is of the other pool too."""
    with asyncio.Runner() as runner:
        made = Both(store, metrics_dir, runner, words)
        try:
            yield made
        finally:
            made.close()


def body(**fields: Any) -> dict[str, Any]:
    return {"json": {"model": "tiny@1", "seed": 7, **fields}}


def text(**fields: Any) -> dict[str, Any]:
    return body(model="words", **fields)


VECTOR = {"name": "image", "datatype": "FP32", "shape": [2, 1, 8, 8], "data": [0.25] * 128}
ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "json": ("/v1/samples", body(n=5, label=[1, 2, 3, 4, 5])),
    "png": ("/v1/samples", body(format="png", label=3)),
    "grid": ("/v1/samples", body(n=6, format="grid", first_index=3)),
    "npy": ("/v1/samples", body(n=9, format="npy")),
    "ndjson": ("/v1/samples", body(n=13, format="ndjson")),
    "numbers": ("/v1/samples", body(n=3, signature="numbers")),
    "too many": ("/v1/samples", body(n=101)),
    "wrong label": ("/v1/samples", body(label=10)),
    "no image": ("/v1/samples", body(signature="numbers", format="png")),
    "openai": ("/v1/images/generations", body(prompt="seven", n=2)),
    "interpolate": ("/v1/interpolate", {"json": {"model": "tiny@1", "from_seed": 1, "to_seed": 2}}),
    "oip": (
        "/v2/models/tiny/versions/1/infer",
        {"json": {"parameters": {"seed": 7, "n": 3, "label": 4}}},
    ),
    "oip pixels": (
        "/v2/models/tiny/versions/1/infer",
        {"json": {"parameters": {"seed": 7}, "outputs": [{"name": "pixels"}]}},
    ),
    "oip inputs": ("/v2/models/tiny:encode/versions/1/infer", {"json": {"inputs": [VECTOR]}}),
    "oip binary": (
        "/v2/models/tiny/versions/1/infer",
        {"json": {"parameters": {"seed": 7, "binary_data_output": True}}},
    ),
}


def told(answer: httpx.Response) -> dict[str, str]:
    return {k: v for k, v in answer.headers.items() if k not in ("x-aigc-replica", "date")}


OF_TEXTS: dict[str, tuple[str, dict[str, Any]]] = {
    "texts": ("/v1/samples", text(n=9, settings={"temperature": 0.7}, stop=["a", "be"])),
    "lines": ("/v1/samples", text(n=3, format="txt")),
    "texts one by one": ("/v1/samples", text(n=13, format="ndjson")),
    "reconstruct": (
        "/v1/samples",
        {
            "json": {
                "model": "words",
                "signature": "reconstruct",
                "inputs": {"text": ["a", "jeb"]},
                "stop": "b",
            }
        },
    ),
    "wrong setting": ("/v1/samples", text(settings={"top_k": 99})),
    "between texts": (
        "/v1/interpolate",
        {"json": {"model": "words", "from_text": "a", "to_text": "jeb"}},
    ),
    "completions": (
        "/v1/completions",
        text(prompt=["be", ""], n=3, max_tokens=5, stop="a", temperature=2),
    ),
    "oip texts": ("/v2/models/words/infer", {"json": {"parameters": {"seed": 7, "max_tokens": 5}}}),
}


def without_created(content: bytes) -> Any:
    """OpenAI's answers say when they were made."""
    try:
        return json.loads(content) | {"created": 0, "id": ""}
    except (ValueError, TypeError):
        return content


@pytest.mark.parametrize("asked", list(ASKED))
def test_every_protocol_answers_the_same_from_another_pool(asked: str, both: Both) -> None:
    compare(both, *ASKED[asked])


@pytest.mark.parametrize("asked", list(OF_TEXTS))
def test_texts_are_the_same_from_another_pool(asked: str, with_words: Both) -> None:
    compare(with_words, *OF_TEXTS[asked])


def compare(both: Both, path: str, options: dict[str, Any]) -> None:
    """The same answer from both, and who sampled."""
    here = both.local.request("POST", path, **options)
    there = both.remote.request("POST", path, **options)
    assert there.status_code == here.status_code
    assert without_created(there.content) == without_created(here.content)
    assert told(there) == told(here)
    if there.status_code == 200:
        assert both.beside.works, "it was the other pool that sampled"
        assert there.headers["x-aigc-replica"] == "of-large"
        assert here.headers["x-aigc-replica"] == "replica-7"
    else:
        assert not both.beside.works, "what is wrong is refused where it is asked"


def slow_down(worker: ModelReplica, step_s: float = 0.005) -> None:
    """Else all has come before the first part was sent."""
    Gate(Probe(worker), "words@1").slow_s = step_s


def streamed(client: Client, **headers: str) -> dict[int, str]:
    """Four completions by their index, from a stream."""
    fields = text(prompt="be", n=4, stop="aa", stream=True)
    answer = client.request("POST", "/v1/completions", headers=headers, **fields)
    assert answer.headers["x-aigc-model"] == "words@1"
    events = [e.removeprefix("data: ") for e in answer.text.split("\n\n")[:-1]]
    assert events.pop() == "[DONE]"
    found: dict[int, str] = {}
    ended = set()
    for choice in (json.loads(event)["choices"][0] for event in events):
        assert choice["index"] not in ended
        found[choice["index"]] = found.get(choice["index"], "") + choice["text"]
        if choice["finish_reason"]:
            ended.add(choice["index"])
    assert ended == {0, 1, 2, 3}
    return found


def test_a_stream_from_another_pool_is_the_same_text_in_parts(with_words: Both) -> None:
    slow_down(with_words.worker)
    here = streamed(with_words.local)
    assert streamed(with_words.remote) == here
    assert with_words.beside.works[0].params.stopping_criterion is not None
    assert with_words.beside.streamed > 2, "it came as it was written"
    for path in ("/v2/models/words", "/v2/models/words:decode", "/openapi.json"):
        local, remote = (one.get(path).json() for one in (with_words.local, with_words.remote))
        assert local == remote, path


@pytest.mark.parametrize("after", [1, 3, 8])
def test_a_stream_whose_replica_dies_is_not_begun_again(after: int, with_words: Both) -> None:
    slow_down(with_words.worker)
    with_words.beside.dies_after = after
    fields = text(prompt="be", n=4, stop="aa", stream=True)
    answer = with_words.remote.request("POST", "/v1/completions", **fields)
    *_, last = answer.text.removesuffix("\n\n").split("\n\n")
    assert '"pool_unavailable"' in last
    assert "[DONE]" not in answer.text
    assert len(with_words.beside.works) == 1


@pytest.mark.process
def test_a_stream_that_has_begun_in_time_may_end_later(with_words: Both) -> None:
    whole = streamed(with_words.local)
    for client, worker in (
        (with_words.local, with_words.local.replica),
        (with_words.remote, with_words.worker),
    ):
        slow_down(worker, 0.05)
        began = time.monotonic()
        assert streamed(client, **{"x-request-timeout": "0.6"}) == whole
        assert time.monotonic() - began > 0.6


@pytest.mark.process
def test_a_stream_of_which_a_text_has_not_begun_in_time_ends(with_words: Both) -> None:
    """Four texts of 24 steps fill the batch; the fifth would begin when one of them has ended."""
    for client, worker in (
        (with_words.local, with_words.local.replica),
        (with_words.remote, with_words.worker),
    ):
        slow_down(worker, 0.05)
        headers = {"x-request-timeout": "0.6"}
        fields = {"json": {"model": "words", "n": 5, "seed": 2, "stream": True}}
        answer = client.request("POST", "/v1/completions", headers=headers, **fields)
        *parts, last = answer.text.removesuffix("\n\n").split("\n\n")
        assert len(parts) > 4
        assert '"deadline_exceeded"' in last
        assert Probe(worker).queued == 0


def test_what_stops_a_text_ends_its_steps_in_another_pool(with_words: Both) -> None:
    def steps() -> float:
        probe = Probe(with_words.worker)
        return probe.count("aigc_steps_total", model="words", signature="decode")

    fields = {"signature": "reconstruct", "inputs": {"text": "jeb"}, "model": "words"}
    whole = with_words.remote.request("POST", "/v1/samples", json=fields).json()["samples"]
    before = steps()
    stopped = {**fields, "stop": whole[0]["text"][0]}
    answer = with_words.remote.request("POST", "/v1/samples", json=stopped)
    assert answer.json()["samples"] == [{"index": 0, "text": ""}]
    assert steps() - before == 1
    assert before > 1


@pytest.mark.process
def test_refusals_of_a_stream_are_the_same_as_at_home(
    with_words: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.hosting.pool_client.PAUSE_S", 0.001)
    Probe(with_words.worker).batcher.close()
    fields = text(prompt="be", stream=True)
    answer = with_words.remote.request("POST", "/v1/completions", **fields)
    assert code_of(answer) == (503, "pool_unavailable")
    fields = text(prompt="Be", stream=True)
    answer = with_words.remote.request("POST", "/v1/completions", **fields)
    assert code_of(answer) == (400, "unknown_characters")


def test_verification_and_descriptions_are_the_same(both: Both) -> None:
    png = both.local.request("POST", "/v1/samples", **body(format="png")).content
    judged = [one.request("POST", "/v1/verify", content=png) for one in (both.local, both.remote)]
    assert judged[0].json() == judged[1].json()
    assert judged[1].json()["reason"] == "equal"
    for path in ("/v1/models", "/v1/models/tiny", "/v2/models/tiny/versions/1", "/openapi.json"):
        here, there = both.local.get(path).json(), both.remote.get(path).json()
        assert here == there, path


def test_provider_of_another_pool_is_unknown_until_a_replica_reports_it(both: Both) -> None:
    def shown() -> list[str]:
        return [model["provider"] for model in both.remote.get("/v1/models").json()["data"]]

    pool = Probe(both.remote.replica).pool("large")
    both.beside.started, pool.provider = False, "unknown"
    both.run(both.remote.replica.tend())
    assert shown() == ["unknown", "cpu"]
    both.beside.started = True
    both.run(both.remote.replica.tend())
    assert shown() == ["cpu", "cpu"]
    pool.provider = "unknown"
    assert both.remote.request("POST", "/v1/samples", **body()).status_code == 200
    assert pool.provider == "cpu"  # every answer says it


def test_an_error_of_another_pool_does_not_end_periodic_work(
    both: Both, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails() -> Any:
        raise RuntimeError("broken pool")

    pool = Probe(both.remote.replica).pool("large")
    pool.provider = "unknown"
    monkeypatch.setattr(both.beside, "provider", fails)
    both.run(both.remote.replica.tend())
    assert "a replica of pool large did not tell its provider" in caplog.text
    assert pool.provider == "unknown"

    async def two_turns() -> None:
        again, turns = asyncio.Event(), []

        async def tend() -> None:
            turns.append(1)
            if len(turns) == 1:
                raise RuntimeError("a bad turn")
            again.set()

        monkeypatch.setattr(both.worker, "tend", tend)
        await asyncio.wait_for(again.wait(), 30)

    monkeypatch.setattr("serve.hosting.pool_worker.TEND_S", 0.001)
    both.run(two_turns())
    assert "periodic work failed; it is tried again" in caplog.text


def test_sleeping_pool_is_not_woken_to_tell_its_provider(both: Both) -> None:
    pool = PoolClient("large", both.beside, limits=LIMITS, max_outstanding=9, may_sleep=True)
    both.run(pool.learn_provider())
    assert pool.provider == "unknown"
    fixed = PoolClient("large", both.beside, limits=LIMITS, max_outstanding=9, provider="cuda")
    assert fixed.provider == "cuda"


def test_grpc_answers_the_same_from_another_pool(both: Both) -> None:
    request = service_pb2.ModelInferRequest(model_name="tiny", model_version="1")
    request.parameters["seed"].int64_param = 7
    request.parameters["n"].int64_param = 3

    async def infer(replica: IngressReplica) -> bytes:
        server = grpc.aio.server()
        add_to_server(servicer(replica.grpc), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary(
                f"/{protobuf.SERVICE}/ModelInfer",
                request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            )
            answer: bytes = await call(request)
        await server.stop(0)
        return answer

    answers = [both.run(infer(one.replica)) for one in (both.local, both.remote)]
    one, other = (service_pb2.ModelInferResponse.FromString(answer) for answer in answers)
    assert one == other
    assert both.beside.works


def test_a_name_means_the_newest_of_all_pools(both: Both) -> None:
    newest = both.remote.request("POST", "/v1/samples", json={"model": "tiny", "seed": 1})
    assert newest.json()["model"] == "tiny@2"
    assert not both.beside.works


def test_only_the_seed_travels_and_the_seconds_that_are_left(both: Both) -> None:
    answer = both.remote.request(
        "POST", "/v1/samples", headers={"x-request-timeout": "20"}, **body(n=3, first_index=2)
    )
    assert answer.status_code == 200
    (work,) = both.beside.works
    assert work.seconds is not None
    assert 0 < work.seconds <= 20
    params = work.params
    assert (params.seed, params.first_index, params.n, work.inputs) == (7, 2, 3, None)
    assert len(pickle.dumps(work)) < 600


def lost(work: PoolRequest) -> Any:
    async def gone() -> PoolResult | PoolRefusal:
        raise ReplicaLostError("killed")

    return gone()


def unreached(work: PoolRequest) -> Any:
    async def gone() -> PoolResult | PoolRefusal:
        raise UnreachedError("nobody was there")

    return gone()


def saying(refused: PoolRefusal) -> Callable[[PoolRequest], Awaitable[PoolResult | PoolRefusal]]:
    async def say(work: PoolRequest) -> PoolResult | PoolRefusal:
        return refused

    return say


def test_a_request_that_has_not_begun_is_sent_to_another_replica(
    both: Both, artifact: Artifact
) -> None:
    both.beside.answers = [
        unreached,
        saying(PoolRefusal(reason="closed")),
        saying(PoolRefusal(reason="unknown")),
    ]
    answer = both.remote.request("POST", "/v1/samples", **body(n=2, format="npy"))
    expected = artifact.uint8("sample", artifact.sample(seed=7, n=2))
    assert np.array_equal(np.load(io.BytesIO(answer.content)), expected)
    assert len(both.beside.works) == 4


@pytest.mark.parametrize("died", [lost, saying(PoolRefusal(reason="lost"))])
def test_a_request_that_may_have_begun_is_sent_to_no_other_replica(died: Any, both: Both) -> None:
    both.beside.answers = [died] * 100
    answer = both.remote.request("POST", "/v1/samples", **body())
    assert code_of(answer) == (503, "pool_unavailable")
    assert "it may have begun, so no other one was asked" in answer.text
    assert answer.headers["retry-after"] == "1"
    assert len(both.beside.works) == 1


def test_a_pool_that_never_wakes_is_not_waited_for_without_end(
    both: Both, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def prove(uri: str) -> str:
        await asyncio.Event().wait()
        return ""

    monkeypatch.setattr(both.beside, "prove", prove)
    monkeypatch.setattr("serve.hosting.pool_client.WAKE_S", 0.5 - 2 * Limits().max_load_seconds)
    answer = admin(both, "deploy", artifact=f"{store}/other", pool="large")
    assert code_of(answer) == (409, "artifact_refused")
    assert "did not try" in answer.text


def test_an_artifact_that_kills_a_replica_is_not_tried_on_the_next(
    both: Both, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    async def prove(uri: str) -> str:
        tried.append(uri)
        raise ReplicaLostError("killed")

    monkeypatch.setattr(both.beside, "prove", prove)
    answer = admin(both, "deploy", artifact=f"{store}/other", pool="large")
    assert code_of(answer) == (409, "artifact_refused")
    assert "may have begun" in answer.text
    assert len(tried) == 1


def test_replicas_that_are_not_reached_are_503(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.hosting.pool_client.PAUSE_S", 0.001)
    both.beside.answers = [unreached] * 100
    answer = both.remote.request("POST", "/v1/samples", **body())
    assert code_of(answer) == (503, "pool_unavailable")
    assert answer.headers["retry-after"] == "1"
    assert len(both.beside.works) == ATTEMPTS
    monkeypatch.setattr("serve.hosting.pool_client.TAKE_UP_S", 0.01)
    both.beside.answers = [saying(PoolRefusal(reason="unknown"))] * 100
    assert code_of(both.remote.request("POST", "/v1/samples", **body())) == (
        503,
        "pool_unavailable",
    )


@pytest.mark.parametrize("n", [60, 4])
def test_refusals_are_the_same_as_at_home(n: int, both: Both) -> None:
    """A full queue, and a deadline that passes in it."""
    answers = []
    for client, worker in ((both.local, both.local.replica), (both.remote, both.worker)):
        gate = Gate(Probe(worker), "tiny@1", free=0)

        async def ask(client: Client = client, gate: Gate = gate) -> httpx.Response:
            held = asyncio.create_task(client.http.post("/v1/samples", **body(n=60)))
            while gate.runs == 0:
                await asyncio.sleep(0.01)
            headers = {"x-request-timeout": "0.2"} if n == 4 else {}
            answer = await client.http.post("/v1/samples", headers=headers, **body(n=n))
            gate.open.set()
            assert (await held).status_code == 200
            return answer

        answers.append(both.run(ask()))
    here, there = answers
    assert code_of(there) == (504, "deadline_exceeded") if n == 4 else (503, "overloaded")
    assert there.json() == here.json()
    assert there.headers.get("retry-after") == here.headers.get("retry-after")


def never(work: PoolRequest) -> Any:
    return asyncio.Event().wait()


def test_a_pool_without_replicas_holds_only_so_much(both: Both) -> None:
    """Waiting for a cold start ends with the deadline; what is too much is refused at once."""
    both.beside.answers = [never] * 3

    async def ask() -> list[httpx.Response]:
        headers = {"x-request-timeout": "0.5"}
        waiting = [
            asyncio.create_task(
                both.remote.http.post("/v1/samples", headers=headers, **body(n=100))
            )
            for _ in range(2)
        ]
        while len(both.beside.works) < 2:
            await asyncio.sleep(0.01)
        refused = await both.remote.http.post("/v1/samples", **body(n=1))
        return [refused, *await asyncio.gather(*waiting)]

    refused, *waited = both.run(ask())
    assert code_of(refused) == (503, "overloaded")
    assert "queue of pool large is full" in refused.json()["error"]["message"]
    assert [code_of(one) for one in waited] == [(504, "deadline_exceeded")] * 2
    assert both.remote.probe.outstanding("large") == 0


def test_hanging_up_cancels_the_work_in_the_pool(both: Both) -> None:
    probe = Probe(both.worker)
    gate = Gate(probe, free=0)

    async def hang_up() -> None:
        asking = asyncio.create_task(both.remote.http.post("/v1/samples", **body(n=60)))
        while gate.runs == 0:
            await asyncio.sleep(0.01)
        assert probe.queued == 56
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert probe.queued == 0
        gate.open.set()

    both.run(hang_up())
    assert both.remote.probe.outstanding("large") == 0


def test_an_error_of_the_graph_is_the_servers(both: Both) -> None:
    gate = Gate(Probe(both.worker))
    gate.fails_at = 0
    assert code_of(both.remote.request("POST", "/v1/samples", **body())) == (
        500,
        "internal",
    )


def admin(both: Both, verb: str, **fields: Any) -> httpx.Response:
    return both.remote.request("POST", f"/v1/admin/{verb}", json=fields)


def test_versions_of_another_pool_change_there(both: Both, tmp_path: Path) -> None:
    store = Store(tmp_path / "more")
    uris = [publish(store, tmp_path / f"v{seed}", "big", seed) for seed in (5, 6)]
    before = both.remote.request("POST", "/v1/samples", **body(n=3, format="npy")).content
    assert admin(both, "deploy", artifact=uris[0], pool="large").status_code == 200
    both.settle()
    answer = admin(both, "deploy", artifact=uris[1])
    assert answer.status_code == 200, answer.text
    assert answer.json()["pools"]["large"]["artifacts"][1:] == uris, "it goes to others of its name"
    both.settle()
    seen = both.remote.request("POST", "/v1/samples", json={"model": "big", "seed": 1})
    assert (seen.json()["model"], seen.headers["x-aigc-replica"]) == ("big@2", "of-large")
    assert admin(both, "pin", model="big", version="1").status_code == 200
    both.settle()
    assert both.target.pools["large"].pinned == {"big": "1"}
    seen = both.remote.request("POST", "/v1/samples", json={"model": "big", "seed": 1})
    assert seen.json()["model"] == "big@1"
    assert admin(both, "remove", model="big").status_code == 200
    both.settle()
    assert code_of(both.remote.request("POST", "/v1/samples", json={"model": "big"}))[0] == 404
    assert both.remote.request("POST", "/v1/samples", **body(n=3, format="npy")).content == before


def test_a_removed_model_serves_requests_under_way(both: Both, tmp_path: Path) -> None:
    uri = publish(Store(tmp_path / "more"), tmp_path / "v", "big", 5)
    both.run(both.worker.configure({"artifacts": [uri]}))  # the ingress does not know yet
    both.settle()
    assert both.remote.request("POST", "/v1/samples", **body()).status_code == 200


def test_what_a_pool_cannot_host_is_refused_and_all_stays(
    both: Both, store: Path, tmp_path: Path
) -> None:
    def refused(**fields: Any) -> str:
        answer = admin(both, "deploy", **fields)
        assert code_of(answer) == (409, "artifact_refused")
        message: str = answer.json()["error"]["message"]
        return message

    before = both.target
    assert "no pool 'huge'; there are: default, large" in refused(
        artifact=f"{store}/other", pool="huge"
    )
    assert "in the pools default and large have the same name" in refused(
        artifact=f"{store}/tiny@2", pool="large"
    )
    Probe(both.worker).memory.limit_bytes = 1
    assert "other@1 does not fit" in refused(artifact=f"{store}/other", pool="large")
    answer = admin(both, "remove", model="tiny@1")
    assert "pool large would host nothing" in answer.json()["error"]["message"]
    assert both.target == before
    # A config that came past the admin route is not taken up by the ingress either.
    target = replace(before, pools={"large": DesiredModels(artifacts=(f"{store}/other",))})
    both.run(both.remote.replica.configure(target.document()))
    both.settle()
    assert both.remote.request("POST", "/v1/samples", **body()).status_code == 200
    assert both.remote.probe.count("aigc_refused_loads_total") == 1


def test_a_pool_worker_proves_a_candidate_and_keeps_it(both: Both, store: Path) -> None:
    hosted = both.run(both.worker.prove(f"{store}/other@1"))
    assert both.run(both.worker.prove(f"{store}/other@1")) is hosted
    assert hosted.artifact.id == "other@1"
    with pytest.raises(ArtifactError, match="no artifact"):
        both.run(both.worker.prove(f"{store}/none"))


def test_memory_of_a_replaced_candidate_and_of_a_refused_load_is_given_back(
    both: Both, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Probe(both.worker).memory
    for name in ("tiny@2", "other@1"):
        both.run(both.worker.prove(f"{store}/{name}"))
        assert counted.allocations.keys() == {"tiny@1", name}
    opened, real = [], ModelLoader.open

    def opens_and_fails(loader: ModelLoader, uri: str) -> HostedModel:
        opened.append(real(loader, uri).id)
        raise ArtifactError("another artifact does not fit")

    monkeypatch.setattr(ModelLoader, "open", opens_and_fails)
    target = DesiredModels(artifacts=(f"{store}/tiny@1", f"{store}/tiny@2"))
    both.run(both.worker.configure(target.document()))
    both.settle()
    assert opened == ["tiny@2"]
    assert counted.allocations.keys() == {"tiny@1", "other@1"}
