"""The usual way: FastAPI, pydantic, onnxruntime in an executor thread, prometheus-client.

python -m tests.bench.peers.fastapi_server ARTIFACT PORT
"""

import asyncio
import io
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
import uvicorn
from fastapi import FastAPI, HTTPException, Response
from prometheus_client import Counter, Histogram
from pydantic import BaseModel, Field

from aigc.artifact import latents
from aigc.artifact.codecs import to_uint8

options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
options.add_session_config_entry("session.intra_op.allow_spinning", "0")
session = ort.InferenceSession(f"{sys.argv[1]}/generator.onnx", options)
thread = ThreadPoolExecutor(1)
requests = Counter("requests_total", "Requests.", ["code"]).labels("200")
duration = Histogram("request_seconds", "Duration of requests.")
app = FastAPI()


class SampleRequest(BaseModel):
    model: str
    n: int = Field(1, ge=1, le=1024)
    seed: int = Field(ge=0, lt=2**53)
    label: int | None = Field(None, ge=0, lt=10)
    format: Literal["npy"]


def sample(n: int, seed: int, label: int | None) -> bytes:
    shape = tuple(session.get_inputs()[0].shape[1:])
    given = np.full(n, label) if label is not None else latents.labels(seed, range(n), 10)
    feeds: dict[str, Any] = {"latent": latents.normal(seed, range(n), shape), "label": given}
    buffer = io.BytesIO()
    np.save(buffer, to_uint8(session.run(None, feeds)[0], -1, 1))
    return buffer.getvalue()


@app.post("/v1/samples")
async def samples(ask: SampleRequest) -> Response:
    started = time.perf_counter()
    if ask.model != "digits":
        raise HTTPException(404, "unknown model")
    loop = asyncio.get_running_loop()
    body = await loop.run_in_executor(thread, sample, ask.n, ask.seed, ask.label)
    requests.inc()
    duration.observe(time.perf_counter() - started)
    return Response(body, media_type="application/octet-stream")


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[2]), access_log=False, log_level="warning")
