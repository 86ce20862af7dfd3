"""LitServe: the request is decoded in its server process, the graph runs in its worker process.

python -m benchmarks.peers.litserve_server ARTIFACT PORT
"""

import sys
import time
from typing import Any

import litserve
from fastapi import Response

from benchmarks.peers.pixels import Generator, SampleRequest, count


class Samples(litserve.LitAPI):  # type: ignore[misc]
    """Requests of any size, one at a time: its batches are of requests, not of samples."""

    def setup(self, device: str) -> None:
        self.generator = Generator(sys.argv[1])

    def decode_request(self, request: SampleRequest) -> SampleRequest:
        return request

    def predict(self, x: SampleRequest) -> bytes:
        started = time.perf_counter()
        body = self.generator.sample(x)
        count(started)
        return body

    def encode_response(self, output: bytes) -> Any:
        return Response(output, media_type="application/octet-stream")


if __name__ == "__main__":
    server = litserve.LitServer(Samples(api_path="/v1/samples"), accelerator="cpu")
    server.run(port=int(sys.argv[2]), log_level="warning", generate_client_file=False)
