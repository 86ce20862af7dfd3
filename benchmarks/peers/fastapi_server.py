"""The usual way: FastAPI, pydantic, onnxruntime in an executor thread, prometheus-client.

    python -m benchmarks.peers.fastapi_server ARTIFACT PORT executor|inline [WORKERS]

Inline, the graph runs on the event loop: the fastest for one client at a time, but while it runs
nobody is heard, health checks included.
"""

import asyncio
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import uvicorn
from fastapi import FastAPI, Response

from benchmarks.peers.pixels import Generator, SampleRequest, count

OCTETS = "application/octet-stream"


def build() -> FastAPI:
    """The application; uvicorn's workers call it, each for itself."""
    generator = Generator(os.environ["ARTIFACT"])
    thread = ThreadPoolExecutor(1)
    app = FastAPI()

    async def in_executor(ask: SampleRequest) -> Response:
        started = time.perf_counter()
        loop = asyncio.get_running_loop()
        body = await loop.run_in_executor(thread, generator.sample, ask)
        count(started)
        return Response(body, media_type=OCTETS)

    async def inline(ask: SampleRequest) -> Response:
        started = time.perf_counter()
        body = generator.sample(ask)
        count(started)
        return Response(body, media_type=OCTETS)

    samples = inline if os.environ["HOW"] == "inline" else in_executor
    app.post("/v1/samples")(samples)
    return app


if __name__ == "__main__":
    artifact, port, how, *workers = sys.argv[1:]
    os.environ |= {"ARTIFACT": artifact, "HOW": how}
    uvicorn.run(
        "benchmarks.peers.fastapi_server:build",
        factory=True,
        port=int(port),
        workers=int(workers[0]) if workers else 1,
        access_log=False,
        log_level="warning",
    )
