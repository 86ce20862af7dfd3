"""The Open Inference Protocol over HTTP and gRPC, as `aigc serve` has it on two ports."""

import re

import httpx
import numpy as np
import pytest

from aigc.artifact import Artifact
from tests.serve.protocols.oip.wires import Wire
from tests.serve.servers import Server

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]


def test_the_command_serves_both_wires(pair: Server, artifact: Artifact) -> None:
    shown = re.search(r"gRPC     (127\.0\.0\.1:\d+)$", pair.stderr, re.MULTILINE)
    assert shown, pair.stderr
    answered = ("aigc_requests_total", "api=oip-grpc", "code=200")
    before = pair.total(*answered)
    expected = artifact.sample(seed=7, n=5)["image"].tobytes()
    wire = Wire("grpc", shown[1])
    with wire.client:
        assert wire.client.is_server_live()
        assert wire.client.is_server_ready()
        assert wire.metadata("tiny:encode")["platform"] == "onnxruntime_onnx"
        for _ in range(10):
            result = wire.infer("tiny", request_id="7", seed=7, n=5)
            assert result.outputs["image"].tobytes() == expected
            assert result.id == "7"
        refusal = wire.refusal("tiny", label=12)
        assert refusal.status == "INVALID_ARGUMENT"
        assert "in [0, 10), got 12" in refusal.message
        images = np.zeros((1024, 1, 8, 8), np.float32)
        found = wire.infer("tiny:encode", [("image", images)]).outputs["vector"]
        assert found.shape == (1024, 4)
        large = np.zeros((80_000, 1, 8, 8), np.float32)
        refusal = wire.refusal("tiny:encode", [("image", large)])
        assert refusal.status == "RESOURCE_EXHAUSTED"
        assert "larger than max" in refusal.message
    body = {"inputs": [], "parameters": {"seed": 7, "n": 5}}
    answer = httpx.post(f"{pair.url}/v2/models/tiny/infer", json=body).json()
    found = np.array(answer["outputs"][0]["data"], np.float32)
    assert found.tobytes() == expected
    assert pair.total(*answered) == before + 11
