"""The Open Inference Protocol over both of its wires: tritonclient against a replica."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aigc.artifact import Artifact, latents
from serve.settings import MAX_SEED, Settings
from tests.serve.artifacts import CLASSES
from tests.serve.client import limited
from tests.serve.listening import Gate, Listening, listening
from tests.serve.protocols.oip.wires import WIRES, Given, Wire, connected, rows


@pytest.fixture(scope="module")
def served(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    limits = limited(tmp_path_factory.mktemp("metrics"), max_batch=4, max_n=100)
    with listening(limits, f"{store}/tiny@1", f"{store}/tiny@2") as one:
        yield one


@pytest.fixture(params=WIRES)
def wire(request: pytest.FixtureRequest, served: Listening) -> Iterator[Wire]:
    with connected(request.param, served) as wire:
        yield wire


@pytest.fixture(params=("rest", "grpc"))
def name(request: pytest.FixtureRequest) -> str:
    """A wire, for tests whose replica is their own."""
    return str(request.param)


@pytest.fixture
def own(name: str, store: Path, metrics_dir: Path) -> Iterator[tuple[Listening, Wire]]:
    """A replica of the test's own, and its client."""
    with (
        listening(limited(metrics_dir, max_values=640), f"{store}/tiny@1") as served,
        connected(name, served) as wire,
    ):
        yield served, wire


def test_metadata_describes_signatures_and_versions(wire: Wire) -> None:
    assert wire.client.is_server_live()
    assert wire.client.is_server_ready()
    server = wire.server_metadata()
    assert server["name"] == "aigc"
    assert server["extensions"] == ["binary_tensor_data", "parameters"][wire.is_grpc :]
    assert wire.client.is_model_ready("tiny")
    assert wire.client.is_model_ready("tiny:encode", "2")
    assert not wire.client.is_model_ready("tiny", "3")
    assert not wire.client.is_model_ready("none")
    assert wire.metadata("tiny") == {
        "name": "tiny",
        "versions": ["1", "2"],
        "platform": "onnxruntime_onnx",
        "inputs": [
            {"name": "latent", "datatype": "FP32", "shape": [-1, 16]},
            {"name": "label", "datatype": "INT64", "shape": [-1]},
        ],
        "outputs": [
            {"name": "image", "datatype": "FP32", "shape": [-1, 1, 8, 8]},
            {"name": "pixels", "datatype": "UINT8", "shape": [-1, 8, 8, 1]},
        ],
    }
    encode = wire.metadata("tiny:encode", "1")
    assert encode["name"] == "tiny:encode"
    assert encode["outputs"] == [{"name": "vector", "datatype": "FP32", "shape": [-1, 4]}]
    with pytest.raises(Exception, match="has no signature 'dream', it has: sample"):
        wire.metadata("tiny:dream")


def test_infer_gives_the_samples_of_a_seed(wire: Wire, artifact: Artifact) -> None:
    sampling = {"seed": MAX_SEED, "n": 6, "first_index": 3, "label": 4}
    outputs = ["pixels", "image"]
    answer = wire.infer("tiny", version="1", outputs=outputs, request_id="42", **sampling)
    expected = artifact.sample(**sampling)
    assert [*answer.outputs] == outputs
    assert answer.outputs["image"].tobytes() == expected["image"].tobytes()
    assert np.array_equal(answer.outputs["pixels"], artifact.uint8("sample", expected))
    assert (answer.id, answer.model, answer.version) == ("42", "tiny", "1")
    assert answer.parameters == {
        "seed": MAX_SEED,
        "first_index": 3,
        "digest": artifact.manifest.digest,
        "reproducibility": "bit",
    }
    alone = wire.infer("tiny", version="1", outputs=outputs[:1], **sampling).outputs
    assert [*alone] == ["pixels"]
    assert np.array_equal(alone["pixels"], answer.outputs["pixels"])


def test_infer_draws_a_seed_and_returns_it(wire: Wire) -> None:
    first, second = wire.infer("tiny"), wire.infer("tiny")
    assert first.parameters["seed"] != second.parameters["seed"]
    again = wire.infer("tiny", seed=first.parameters["seed"])
    assert again.outputs["image"].tobytes() == first.outputs["image"].tobytes()
    assert (again.id, again.version) == ("", "2")


def test_infer_takes_latents_and_labels_as_tensors(wire: Wire, artifact: Artifact) -> None:
    expected = artifact.sample(seed=9, n=10)["image"].tobytes()
    latent = ("latent", latents.normal(9, range(10), (16,)))
    label = ("label", latents.labels(9, range(10), 10))
    answer = wire.infer("tiny", [label, latent], version="1")
    assert answer.outputs["image"].tobytes() == expected
    assert "seed" not in answer.parameters
    seeded = wire.infer("tiny", [label], version="1", seed=9)
    assert seeded.outputs["image"].tobytes() == expected
    one = wire.infer("tiny", [latent], version="1", label=3).outputs["image"]
    threes = artifact.run("sample", {"latent": latent[1], "label": np.full(10, 3)})["image"]
    assert one.tobytes() == threes.tobytes()


def test_infer_takes_labels_by_name(wire: Wire) -> None:
    expected = wire.infer("tiny", seed=9, n=2, label=3).outputs["image"].tobytes()
    named = wire.infer("tiny", seed=9, n=2, label=CLASSES[3])
    assert named.outputs["image"].tobytes() == expected
    names = np.array([CLASSES[3], "index:3"], object)
    assert wire.infer("tiny", [("label", names)], seed=9).outputs["image"].tobytes() == expected
    refusal = wire.refusal("tiny", [("label", np.array(["nnie"], object))])
    assert "got 'nnie'; did you mean 'nine'?" in refusal.message


def test_infer_runs_every_signature(wire: Wire, artifact: Artifact) -> None:
    images = latents.normal(1, range(9), (1, 8, 8))
    answer = wire.infer("tiny:encode", [("image", images)], version="1")
    expected = artifact.run("encode", {"image": images})["vector"]
    assert answer.outputs["vector"].tobytes() == expected.tobytes()
    assert answer.model == "tiny:encode"
    numbers = wire.infer("tiny:numbers", version="1", seed=3, n=2).outputs["vector"]
    expected = artifact.sample("numbers", seed=3, n=2)["vector"]
    assert numbers.tobytes() == expected.tobytes()


def test_the_asynchronous_client_gets_the_same_samples(wire: Wire, artifact: Artifact) -> None:
    async def crowd() -> list[Any]:
        async with wire.aio() as client:
            calls = (
                client.infer("tiny", [], "1", parameters={"seed": i, "n": i + 1}) for i in range(20)
            )
            return await asyncio.gather(*calls)

    for i, result in enumerate(asyncio.run(crowd())):
        expected = artifact.sample(seed=i, n=i + 1)["image"]
        assert result.as_numpy("image").tobytes() == expected.tobytes()


LATENT = ("latent", np.full((1, 16), 0.5, np.float32))
LABEL = ("label", rows(3, dtype=np.int64))
NONE = ("latent", np.zeros((0, 16), np.float32))
IMAGE = ("image", np.zeros((1, 1, 8, 8), np.float32))


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ([("z", LATENT[1])], {}, "tiny takes no input 'z', it takes: latent, label"),
        ([LABEL, LABEL], {}, "input 'label' is named twice"),
        ([LATENT], {}, "tiny needs label as input: nothing is drawn beside a latent"),
        ([("latent", LATENT[1].astype(float))], {}, "'latent' must be FP32, got 'FP64'"),
        ([("latent", LATENT[1][0])], {}, "must have shape [n, 16], got [16]"),
        ([("latent", LATENT[1][:, 1:])], {}, "must have shape [n, 16], got [1, 15]"),
        ([NONE], {}, "n must be in [1, 100]"),
        ([LATENT, ("label", rows(10, dtype=np.int64))], {}, "label must be in [0, 10), got 10"),
        ([LATENT, ("label", rows(-1, dtype=np.int64))], {}, "label must be in [0, 10), got -1"),
        ([LATENT], {"label": 2**63 - 1}, f"label must be in [0, 10), got {2**63 - 1}"),
        (
            [LATENT, ("label", rows(1, 2, dtype=np.int64))],
            {},
            "one n for all of a request: latent has 1, label has 2",
        ),
        ([LABEL], {"n": 2}, "label has 1, n is 2"),
        ([LABEL], {"label": 2}, "as an input and as a parameter; give it once"),
        ([LATENT, LABEL], {"seed": 2}, "seed has no effect: all that tiny takes is given"),
        ([], {"outputs": ["x"]}, "tiny gives no output 'x', it gives: image, pixels"),
        ([], {"outputs": ["image", "image"]}, "output 'image' is named twice"),
    ],
)
def test_infer_refuses_wrong_tensors(
    wire: Wire, given: Given, options: dict[str, Any], message: str
) -> None:
    refusal = wire.refusal("tiny", given, **options)
    assert refusal.status == wire.status(400)
    assert message in refusal.message


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_infer_refuses_numbers_that_are_not_finite(
    served: Listening, name: str, value: Any
) -> None:
    with connected(name, served) as wire:
        refusal = wire.refusal("tiny", [("latent", np.full((1, 16), value, np.float32))])
    assert "not finite" in refusal.message


def test_infer_of_a_signature_that_draws_nothing_needs_its_input(wire: Wire) -> None:
    for parameters in ({}, {"seed": 1}):
        refusal = wire.refusal("tiny:encode", **parameters)
        assert refusal.status == wire.status(400)
        assert "tiny:encode needs image as input" in refusal.message


def test_readiness_follows_the_replica(store: Path, tmp_path: Path, name: str) -> None:
    drain = tmp_path / "draining"
    settings = Settings(metrics_dir=str(tmp_path), drain_file=str(drain))
    with listening(settings) as served, connected(name, served) as wire:
        client = wire.client
        assert client.is_server_live()
        assert not client.is_server_ready()
        assert not client.is_model_ready("tiny")
        refusal = wire.refusal("tiny")
        assert refusal.status == wire.status(503)
        assert "being loaded" in refusal.message
        served.run(served.replica.configure({"artifacts": [f"{store}/tiny"]}))
        assert client.is_server_ready()
        assert client.is_model_ready("tiny")
        drain.touch()
        assert not client.is_server_ready()


def test_a_full_queue_sheds_requests_and_then_goes_on(own: tuple[Listening, Wire]) -> None:
    served, wire = own
    served.probe.batcher.admission.max_queue = 0
    assert "the queue is full" in wire.refusal("tiny").message
    served.probe.batcher.admission.max_queue = 1
    assert wire.infer("tiny").outputs["image"].shape == (1, 1, 8, 8)


def test_floats_bound_n_more_tightly_than_pixels(own: tuple[Listening, Wire]) -> None:
    _, wire = own
    assert len(wire.infer("tiny", outputs=["pixels"], n=10).outputs["pixels"]) == 10
    assert len(wire.infer("tiny", n=5).outputs["image"]) == 5
    assert "n must be in [1, 5]" in wire.refusal("tiny", n=6).message


def test_requests_are_counted_by_signature_and_status(own: tuple[Listening, Wire]) -> None:
    served, wire = own
    wire.infer("tiny")
    wire.refusal("tiny:encode")
    wire.refusal("none")
    for model, signature, code in (
        ("tiny", "sample", "200"),
        ("tiny", "encode", "400"),
        ("", "", "404"),
    ):
        labels = {"model": model, "signature": signature, "code": code}
        assert served.requests(api=wire.api, **labels) == 1
    assert served.requests() == 3


def test_a_failure_is_logged_with_its_request_id_and_kept_from_the_client(
    own: tuple[Listening, Wire], caplog: pytest.LogCaptureFixture
) -> None:
    served, wire = own
    Gate(served.probe, tensors=True).fails_at = 0
    header = "request_id" if wire.is_grpc else "x-request-id"
    refusal = wire.refusal("tiny", headers={header: "order-66"})
    assert refusal.status == wire.status(500)
    assert "fell over" not in refusal.message
    (record,) = caplog.records
    assert record.request_id == "order-66"  # type: ignore[attr-defined]
    assert "the graph fell over" in caplog.text
