"""Ray Serve by itself: its own proxy, and @serve.batch, whose unit is the request.

python -m benchmarks.peers.ray_serve_batch ARTIFACT PORT
"""

import logging
import signal
import sys
import tempfile
import threading
import time
from typing import Any

import numpy as np
import ray
from fastapi import FastAPI, Response
from ray import serve

from benchmarks.peers.pixels import Generator, SampleRequest, count, npy

app = FastAPI()


@serve.deployment(max_ongoing_requests=1000, ray_actor_options={"num_cpus": 1})
@serve.ingress(app)
class Samples:
    """A batch is what came while the last one ran, whatever its size in samples."""

    def __init__(self, artifact: str) -> None:
        self.generator = Generator(artifact)

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.0)
    async def batch(self, asks: list[SampleRequest]) -> list[bytes]:
        drawn = [self.generator.draw(ask) for ask in asks]
        feeds = {name: np.concatenate([one[name] for one in drawn]) for name in drawn[0]}
        pixels = self.generator.run(feeds)
        ends = np.cumsum([ask.n for ask in asks])
        return [npy(part) for part in np.split(pixels, ends[:-1])]

    @app.post("/v1/samples")
    async def samples(self, ask: SampleRequest) -> Response:
        started = time.perf_counter()
        body: Any = await self.batch(ask)
        count(started)
        return Response(body, media_type="application/octet-stream")


if __name__ == "__main__":
    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=100 * 2**20,
        _node_ip_address="127.0.0.1",
        _temp_dir=tempfile.mkdtemp(prefix="ray-"),
    )
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    serve.start(
        http_options={"host": "127.0.0.1", "port": int(sys.argv[2])},
        logging_config={"log_level": "WARNING", "enable_access_log": False},
    )
    serve.cli(Samples.bind(sys.argv[1]))
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    stop.wait()
    ray.shutdown()
