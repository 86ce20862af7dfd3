"""The usual way to stream texts: FastAPI, and a loop over the graph for every request.

    python -m benchmarks.peers.fastapi_texts ARTIFACT PORT

Each request draws its tokens by itself, one run of the graph in an executor thread for each, and
sends each as a server-sent event. No prompts, no stops, no settings, and no two texts alike.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime as ort
import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel


class CompletionRequest(BaseModel):
    model: str
    seed: int
    stream: bool


def build() -> FastAPI:
    """The application."""
    folder = Path(os.environ["ARTIFACT"])
    signatures = json.loads((folder / "manifest.json").read_text())["signatures"]
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(folder / signatures["step"]["graph"], options)
    (text,) = signatures["sample"]["outputs"]
    pieces, length = text["vocabulary"], text["shape"][0]
    inputs = {spec["name"]: spec["shape"] for spec in signatures["step"]["inputs"]}
    thread = ThreadPoolExecutor(1)
    app = FastAPI()

    async def events(seed: int) -> AsyncIterator[str]:
        random, loop = np.random.default_rng(seed), asyncio.get_running_loop()
        feeds = {
            "latent": random.standard_normal((1, *inputs["latent"])).astype(np.float32),
            "state": np.zeros((1, *inputs["state"]), np.float32),
            "token": np.zeros(1, np.int64),
        }
        for _ in range(length):
            logits, state = await loop.run_in_executor(thread, session.run, None, feeds)
            p = np.exp(logits[0].astype(np.float64) - logits[0].max())
            token = int(np.searchsorted(p.cumsum(), random.random() * p.sum(), side="right"))
            if token == 0:
                break
            feeds |= {"state": state, "token": np.array([token])}
            choice = {"index": 0, "text": pieces[token], "finish_reason": None}
            yield f"data: {json.dumps({'choices': [choice]})}\n\n"
        yield "data: [DONE]\n\n"

    async def completions(ask: CompletionRequest) -> StreamingResponse:
        return StreamingResponse(events(ask.seed), media_type="text/event-stream")

    app.post("/v1/completions")(completions)
    app.get("/healthz")(lambda: "ok")
    return app


if __name__ == "__main__":
    artifact, port = sys.argv[1:]
    os.environ["ARTIFACT"] = artifact
    uvicorn.run(
        "benchmarks.peers.fastapi_texts:build",
        factory=True,
        port=int(port),
        access_log=False,
        log_level="warning",
    )
