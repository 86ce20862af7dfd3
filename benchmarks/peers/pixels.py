"""The work of every serving peer for a request: check, draw from the seed, run, round, count.

The latents are `aigc.artifact`'s own, so that all answer the same bytes; sessions have one thread.
"""

import io
import time
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
from prometheus_client import Counter, Histogram
from pydantic import BaseModel, Field

from aigc.artifact import latents
from aigc.artifact.image_files import to_uint8

requests = Counter("requests_total", "Requests.", ["code"]).labels("200")
duration = Histogram("request_seconds", "Duration of requests.")


class SampleRequest(BaseModel):
    """The JSON body, checked by pydantic."""

    model: Literal["digits"]
    n: int = Field(1, ge=1, le=1024)
    seed: int = Field(ge=0, lt=2**53)
    label: int | None = Field(None, ge=0, lt=10)
    format: Literal["npy"]


class Generator:
    """The graph of a class-conditional artifact."""

    def __init__(self, artifact: str) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = ort.InferenceSession(f"{artifact}/generator.onnx", options)
        self.shape = tuple(self.session.get_inputs()[0].shape[1:])

    def draw(self, ask: SampleRequest) -> dict[str, Any]:
        """Latents and classes of a request."""
        n, seed = ask.n, ask.seed
        classes = latents.labels(seed, range(n), 10)
        given = classes if ask.label is None else np.full(n, ask.label)
        return {"latent": latents.normal(seed, range(n), self.shape), "label": given}

    def run(self, feeds: dict[str, Any]) -> Any:
        """(N, H, W, C) uint8."""
        return to_uint8(self.session.run(None, feeds)[0], -1, 1)

    def sample(self, ask: SampleRequest) -> bytes:
        """The answer's body."""
        return npy(self.run(self.draw(ask)))


def npy(pixels: Any) -> bytes:
    """As .npy."""
    buffer = io.BytesIO()
    np.save(buffer, pixels)
    return buffer.getvalue()


def count(started: float) -> None:
    """One request was answered, which began at `started` by the performance counter."""
    requests.inc()
    duration.observe(time.perf_counter() - started)
