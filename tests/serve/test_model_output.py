"""Graphs that give what their manifests rule out: who asked is told, and the others are served."""

import asyncio
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from aigc.artifact import Artifact, ArtifactError, Signature, Store, TensorSpec
from aigc.artifact.outputs import OutputError, bad_rows, check_shapes
from serve.batching.batcher import Batcher
from serve.hosting.memory_budget import MemoryBudget
from serve.hosting.models import ModelLoader
from serve.hosting.pool_worker import ModelReplica
from serve.metrics import Metrics
from serve.protocols.oip.grpc import GrpcApi
from serve.protocols.oip.protobuf import MESSAGES
from serve.settings import Limits, PoolSettings, Settings
from tests.serve.artifacts import IMAGE, LETTERS
from tests.serve.client import Client, code_of, serving
from tests.serve.faulty import BAD_LABEL, publish_faulty, publish_lost_words
from tests.serve.hosting.pools import Beside
from tests.serve.probe import Probe

FAULTS = ("nan", "inf", "shape", "throw")


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("faulty")
    store = Store(root)
    found = {one: publish_faulty(store, root / f"build-{one}", one, one) for one in FAULTS}
    return {**found, "words": publish_lost_words(store, root / "build-words", "words")}


@pytest.fixture
def client(faulty: dict[str, str], metrics_dir: Path) -> Iterator[Client]:
    limits = Limits(max_batch=8, max_n=100)
    with serving(Settings(metrics_dir=str(metrics_dir), limits=limits), *faulty.values()) as one:
        yield one


def ask(client: Client, model: str, *labels: int, **more: Any) -> Any:
    fields = {"model": model, "seed": 7, "n": len(labels), "label": [*labels], "format": "npy"}
    headers = {"x-request-id": f"of-{model}-{labels[0]}"}
    return client.http.post("/v1/samples", json={**fields, **more}, headers=headers)


def together(client: Client, *asked: Any) -> list[httpx.Response]:
    async def main() -> list[httpx.Response]:
        return await asyncio.gather(*asked)

    return client.run(main())


def counted(client: Client, model: str, signature: str = "sample") -> float:
    return client.probe.count("aigc_model_output_errors_total", model=model, signature=signature)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_row_fails_its_own_request_alone(
    fault: str, faulty: dict[str, str], client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    artifact = Artifact.open(faulty[fault])
    good, bad, other = together(
        client,
        ask(client, fault, 0, 2),
        ask(client, fault, BAD_LABEL, 0),
        ask(client, fault, 2, 2, 0),
    )
    for answer, labels in ((good, [0, 2]), (other, [2, 2, 0])):
        assert answer.status_code == 200, answer.text
        expected = artifact.uint8("sample", artifact.sample(seed=7, n=len(labels), label=labels))
        assert np.array_equal(np.load(io.BytesIO(answer.content)), expected)
    if fault == "throw":  # that is no output at all
        assert code_of(bad) == (500, "internal")
        assert counted(client, fault) == 0
        return
    assert code_of(bad) == (500, "model_output")
    assert f"{fault}@1 failed on this request, and nothing of it is sent: image" in bad.text
    assert counted(client, fault) == 1
    (record,) = [one for one in caplog.records if one.name == "serve.hosting.runner"]
    assert (record.levelno, record.request_id) == (logging.ERROR, f"of-{fault}-1")  # type: ignore[attr-defined]
    assert f"{fault}@1, signature sample" in record.getMessage()


@pytest.mark.parametrize("inline", [True, False])
def test_one_bad_row_of_a_batch_costs_no_second_run(
    inline: bool, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.probe.batcher.inline_s = 3600.0 if inline else 0.0
    sizes: list[int] = []
    run = Artifact.run

    def noted(artifact: Artifact, signature: str, inputs: Any) -> Any:
        sizes.append(len(inputs["label"]))
        return run(artifact, signature, inputs)

    monkeypatch.setattr(Artifact, "run", noted)
    answers = together(client, *(ask(client, "nan", label) for label in (0, BAD_LABEL, 2, 0)))
    assert [answer.status_code for answer in answers] == [200, 500, 200, 200]
    assert sizes == [4]


def test_every_protocol_reports_bad_outputs_in_its_own_shape(client: Client) -> None:
    shared = {"parameters": {"seed": 7, "label": BAD_LABEL}}
    answer = client.request("POST", "/v2/models/nan/infer", json=shared)
    assert answer.status_code == 500
    assert set(answer.json()) == {"error"}
    assert "image has values that are not finite" in answer.json()["error"]
    streamed = client.request(
        "POST", "/v1/samples", json={"model": "nan", "label": BAD_LABEL, "n": 9, "format": "ndjson"}
    )
    assert '"model_output"' in streamed.text
    asked = {"model": "nan", "prompt": "b", "seed": 7}
    assert code_of(client.request("POST", "/v1/images/generations", json=asked)) == (
        500,
        "model_output",
    )
    code, details = client.run(grpc_error(client.replica.grpc, "nan"))
    assert code.name == "INTERNAL"
    assert "image has values that are not finite" in details
    assert counted(client, "nan") == 4


async def grpc_error(api: GrpcApi, model: str) -> Any:
    request = MESSAGES["ModelInferRequest"](model_name=model)
    request.parameters["label"].int64_param = BAD_LABEL
    found: list[Any] = [None, None]

    class Context:
        def peer(self) -> str:
            return "unix:here"

        def invocation_metadata(self) -> Any:
            return ()

        def trailing_metadata(self) -> Any:
            return (("request_id", "of-grpc"),)

        def set_trailing_metadata(self, _: Any) -> None:
            pass

        def set_code(self, code: Any) -> None:
            found[0] = code

        def set_details(self, details: str) -> None:
            found[1] = details

    await api.answer("ModelInfer", request.SerializeToString(), Context())
    return found


def test_a_text_whose_step_gives_no_numbers_ends_alone(
    client: Client, faulty: dict[str, str]
) -> None:
    """It would end there as if the model had said so."""
    fields = {"model": "words", "seed": 7, "format": "json"}
    good, bad, short = together(
        client,
        client.http.post("/v1/samples", json={**fields, "label": 2}),
        client.http.post("/v1/samples", json={**fields, "label": BAD_LABEL}),
        client.http.post(
            "/v1/samples",
            json={**fields, "label": BAD_LABEL, "settings": {"max_tokens": 2}},
        ),
    )
    assert code_of(bad) == (500, "model_output")
    assert "logits of a step are not finite" in bad.text
    pieces = [LETTERS[1 + i % (len(LETTERS) - 1)] for i in range(24)]
    assert good.json()["samples"][0]["text"] == "".join(pieces)
    assert short.json()["samples"][0]["text"] == "".join(pieces[:2])
    assert counted(client, "words") == 1
    stream = client.request(
        "POST", "/v1/completions", json={"model": "words", "label": BAD_LABEL, "stream": True}
    )
    assert '"model_output"' in stream.text
    assert "[DONE]" not in stream.text
    artifact = Artifact.open(faulty["words"])
    with pytest.raises(OutputError, match="are not finite"):
        artifact.sample(seed=7, label=BAD_LABEL)


def test_bad_outputs_of_another_pool_are_reported(
    faulty: dict[str, str], metrics_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    large = PoolSettings(limits=Limits(max_batch=8))

    def settings(name: str) -> Settings:
        return Settings(metrics_dir=str(metrics_dir / name), pools={"large": large})

    with asyncio.Runner() as runner:
        from serve.ingress import IngressReplica

        worker = ModelReplica(settings("large").replica_settings("large"), "of-large")
        beside = Beside(worker)
        replica = IngressReplica(settings("ingress"), "replica-7", connections={"large": beside})
        artifacts = [faulty["nan"], faulty["throw"]]
        runner.run(worker.configure({"artifacts": artifacts}))
        runner.run(
            replica.configure(
                {"artifacts": [faulty["inf"]], "pools": {"large": {"artifacts": artifacts}}}
            )
        )
        client = Client(replica, runner)
        good, bad = together(client, ask(client, "nan", 0), ask(client, "nan", BAD_LABEL))
        assert good.status_code == 200
        assert code_of(bad) == (500, "model_output")
        assert "image has values that are not finite" in bad.text
        assert Probe(worker).count("aigc_model_output_errors_total", model="nan") == 1
        assert counted(client, "nan") == 0, "counted once, where it ran"
        assert code_of(runner.run(ask(client, "throw", BAD_LABEL))) == (500, "internal")
        assert len(beside.works) == 3
        runner.run(client.close())
        worker.close()
    found = {(one.name, getattr(one, "request_id", "")) for one in caplog.records}
    assert ("serve.hosting.runner", "of-nan-1") in found
    assert ("serve.hosting.pool_worker", "of-throw-1") in found


def test_bad_rows_finds_values_that_the_manifest_rules_out() -> None:
    token = TensorSpec(
        name="text", kind="text", dtype="int64", shape=(2,), range=(0, 3), vocabulary=("", *"abc")
    )
    free = TensorSpec(name="mu", kind="vector", dtype="float32", shape=(2,))
    spec = Signature(graph="x", inputs=(), outputs=(IMAGE, token, free))
    outputs = {
        "image": np.zeros((5, 1, 8, 8), np.float32),
        "text": np.zeros((5, 2), np.int64),
        "mu": np.full((5, 2), np.nan, np.float32),
    }
    assert bad_rows(spec, outputs) == {}, "what has no range may be anything"
    outputs["image"][1, 0, 7, 7] = np.inf
    outputs["image"][2, 0, 0, 0] = 3e38
    outputs["text"][3] = 4, 0
    outputs["text"][4] = 0, -1
    found = {row: str(error) for row, error in bad_rows(spec, outputs).items()}
    outside = "text has values outside of [0, 3]"
    assert found == {1: "image has values that are not finite", 3: outside, 4: outside}
    check_shapes(spec, outputs, 5)
    for name, wrong in (
        ("image", np.zeros((5, 1, 8, 9), np.float32)),
        ("image", np.zeros((5, 1, 8, 8), np.float64)),
        ("mu", np.zeros((1, 2), np.float32)),
        ("text", np.zeros((), np.int64)),
    ):
        with pytest.raises(OutputError, match=f"{name} must be"):
            check_shapes(spec, {**outputs, name: wrong}, 5)


def test_a_graph_of_another_shape_at_load_is_refused(
    faulty: dict[str, str], metrics_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Artifact._run

    def wide(artifact: Artifact, spec: Signature, feeds: Any) -> Any:
        if len(feeds["label"]) >= 16:
            feeds = {**feeds, "label": np.full_like(feeds["label"], BAD_LABEL)}
        return run(artifact, spec, feeds)

    monkeypatch.setattr(Artifact, "_run", wide)
    loader = ModelLoader(
        threads=1,
        max_batch=64,
        memory=MemoryBudget(limit_bytes=1 << 40),
        metrics=Metrics(),
        batcher=Batcher(max_queue=1),
    )
    with pytest.raises(ArtifactError, match="a batch of 16 of 'sample' fails: image must be"):
        loader.open(faulty["shape"])


def test_values_of_the_trial_batch_at_load_are_not_judged(
    faulty: dict[str, str], metrics_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch of zeros is run for its size alone."""
    run = Artifact._run

    def bad(artifact: Artifact, spec: Signature, feeds: Any) -> Any:
        if not feeds["latent"].any():
            feeds = {**feeds, "label": np.full_like(feeds["label"], BAD_LABEL)}
        return run(artifact, spec, feeds)

    monkeypatch.setattr(Artifact, "_run", bad)
    with serving(Settings(metrics_dir=str(metrics_dir)), faulty["nan"]) as client:
        assert client.run(ask(client, "nan", 0)).status_code == 200
