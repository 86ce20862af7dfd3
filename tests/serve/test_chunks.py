"""Sounds beyond the bound of their axis: chunks that equal the whole, sent as they are made."""

import asyncio
import base64
import contextlib
import io
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from aigc.artifact import Artifact, audio_files
from aigc.artifact.preprocessing import AudioPreprocessing
from aigc.commands import sample, verify
from aigc.sealing import seal
from serve.batching.jobs import DeadlineError
from serve.sampling_params import SamplingParams
from serve.settings import Limits, Settings
from serve.tiled_samples import run_chunks
from tests.sealing.test_free_axes import spec
from tests.sealing.vocoders import HOP, SPEAK, codec, vocoder
from tests.serve.client import code_of, limited, serving
from tests.serve.hosting.test_pool_client import Both, compare
from tests.serve.listening import Gate, Listening, listening, settled

LONG = 150
"""Frames of eight chunks: each gives 20 of its 24."""


@pytest.fixture(scope="module")
def chunked(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An artifact that draws sounds, speaks mel frames, and encodes sounds, all in chunks."""
    folder = tmp_path_factory.mktemp("chunked")
    heard = spec(
        "heard",
        "audio",
        1,
        f"{HOP}*t",
        range=(-1, 1),
        sample_rate_hz=8000,
        preprocessing=AudioPreprocessing(sizing="nearest"),
    )
    signatures = {
        "sample": replace(SPEAK, graph="sample.onnx", inputs=(spec("z", "latent", 2, "t"),)),
        "speak": SPEAK,
        "encode": replace(
            SPEAK, graph="e.onnx", inputs=(heard,), outputs=(spec("code", "vector", 4, "t"),)
        ),
    }
    graphs = {
        "sample": vocoder(folder / "sample.onnx", taken=("z", 2)),
        "speak": vocoder(folder / "speak.onnx"),
        "encode": codec(folder / "encode.onnx"),
    }
    store = folder / "store"
    return seal(graphs, name="codec", store=store, signatures=signatures, chunk=True)


@pytest.fixture(scope="module")
def artifact(chunked: str) -> Artifact:
    return Artifact.open(chunked)


@pytest.fixture(scope="module")
def served(chunked: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    limits = Limits(max_batch=4, max_values=40_000, max_n=30)
    metrics_dir = str(tmp_path_factory.mktemp("metrics"))
    with listening(Settings(metrics_dir=metrics_dir, limits=limits), chunked) as served:
        yield served


@pytest.fixture
def gate(served: Listening) -> Iterator[Gate]:
    gate = Gate(served.probe)
    yield gate
    gate.open.set()
    settled(lambda: served.probe.idle)
    del served.probe.runner().__dict__["run"]


def drawn(**fields: Any) -> dict[str, Any]:
    return {"model": "codec", "seed": 4, "sizes": {"t": LONG}, "format": "wav", **fields}


def post(served: Listening, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{served.url}/v1/samples", json=body)


def levels(answer: httpx.Response) -> Any:
    """Samples of a WAV, (n, 1) int16."""
    assert answer.status_code == 200, answer.text
    return audio_files.to_pcm16(audio_files.read_sound(answer.content).samples)


def whole(artifact: Artifact, seed: int = 4, index: int = 0, t: int = LONG) -> Any:
    """Samples of the sound that one run of the graph makes."""
    z = artifact.draw("sample", seed, [index], sizes={"t": t})
    return audio_files.to_pcm16(artifact._sessions["sample.onnx"].run(None, z)[0])[0]


@pytest.mark.parametrize("t", [24, 25, 44, LONG])
def test_a_drawn_sound_is_that_of_one_run_in_every_format(
    served: Listening, artifact: Artifact, t: int
) -> None:
    body = drawn(sizes={"t": t})
    answer = post(served, body)
    expected = whole(artifact, t=t)
    assert np.abs(levels(answer).astype(int) - expected).max() <= 1
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert answer.headers["x-aigc-seed"] == "4"
    raw = post(served, body | {"format": "pcm"})
    assert raw.headers["content-type"] == "audio/pcm"
    assert raw.content == audio_files.pcm(levels(answer))
    (alone,) = post(served, body | {"format": "json"}).json()["samples"]
    assert base64.b64decode(alone["audio"]) == answer.content
    array = np.load(io.BytesIO(post(served, body | {"n": 2, "format": "npy"}).content))
    assert np.array_equal(array, artifact.sample(seed=4, n=2, sizes={"t": t})["sound"])


def test_sounds_at_the_same_time_share_batches_and_keep_their_noise(
    served: Listening, artifact: Artifact
) -> None:
    async def all_at_once() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=served.url) as client:
            bodies = [drawn(first_index=i, sizes={"t": LONG + i}) for i in range(5)]
            bodies += [drawn(n=5, format="json", sizes={"t": 24})]
            return await asyncio.gather(*(client.post("/v1/samples", json=b) for b in bodies))

    *long, short = asyncio.run(all_at_once())
    for i, answer in enumerate(long):
        made = artifact.sample(seed=4, first_index=i, sizes={"t": LONG + i})["sound"]
        assert np.array_equal(levels(answer), audio_files.to_pcm16(made)[0])
    assert len(short.json()["samples"]) == 5


def test_given_frames_and_sounds_are_taken_in_chunks(served: Listening, artifact: Artifact) -> None:
    mel = np.random.default_rng(0).normal(size=(1, 4, 61)).astype(np.float32)
    body = {"model": "codec", "signature": "speak", "inputs": {"mel": mel[0].tolist()}}
    expected = audio_files.to_pcm16(artifact.run("speak", {"mel": mel})["sound"])[0]
    answer = post(served, body | {"format": "wav"})
    assert np.array_equal(levels(answer), expected)
    provenance = audio_files.read_sound(answer.content).provenance
    assert provenance is not None
    assert (provenance.sizes, len(provenance.given)) == ({"t": 61}, 1)
    file = base64.b64encode(audio_files.wav(expected, 8000)).decode()
    body = {"model": "codec", "signature": "encode", "inputs": {"heard": file}}
    (found,) = post(served, body).json()["samples"]
    assert np.asarray(found["outputs"]["code"]).shape == (4, 61)
    tensor = {"name": "mel", "shape": [1, 4, 61], "datatype": "FP32", "data": mel.tolist()}
    url = f"{served.url}/v2/models/codec:speak/infer"
    (output,) = httpx.post(url, json={"inputs": [tensor]}).json()["outputs"]
    assert output["shape"] == [1, 1, HOP * 61]


def test_the_first_chunk_comes_before_the_last_is_made(
    served: Listening, artifact: Artifact, gate: Gate
) -> None:
    gate.free = 1
    with httpx.stream("POST", f"{served.url}/v1/samples", json=drawn(format="pcm")) as answer:
        assert answer.status_code == 200
        parts = answer.iter_raw()
        first = next(parts)
        settled(lambda: gate.runs == 2)  # the next one, while this one is sent, and no other
        assert len(first) == 2 * HOP * 22
        assert served.probe.queued == 0
        gate.open.set()
        rest = b"".join(parts)
    assert gate.runs == 8
    made = artifact.sample(seed=4, sizes={"t": LONG})["sound"]
    assert first + rest == audio_files.pcm(audio_files.to_pcm16(made)[0])


def test_a_sound_is_drawn_within_the_deadline_and_the_watch_of_its_first_chunk(
    served: Listening,
) -> None:
    runner = served.probe.runner().at({"t": LONG})
    params = SamplingParams(seed=4, sizes={"t": LONG})
    watched: list[bool] = []

    async def hangs(values: int, function: Any) -> Any:
        assert watched == [True]
        await asyncio.Event().wait()

    async def run(work: Any) -> Any:
        watched.append(True)
        return await work()

    async def first() -> None:
        soon = time.monotonic() + 0.05
        async with contextlib.aclosing(
            run_chunks(runner, params, hangs, run, deadline_s=soon)
        ) as chunks:
            await anext(chunks)

    with pytest.raises(DeadlineError):
        asyncio.run(first())


def test_a_failed_chunk_breaks_the_sound_off(served: Listening, gate: Gate) -> None:
    gate.fails_at = 3
    before = served.requests(code="500")
    with httpx.stream("POST", f"{served.url}/v1/samples", json=drawn()) as answer:
        assert answer.status_code == 200
        parts = answer.iter_raw()
        next(parts)
        with pytest.raises(httpx.RemoteProtocolError, match="peer closed connection"):
            b"".join(parts)
    settled(lambda: served.requests(code="500") == before + 1)
    gate.fails_at = gate.runs + 1
    assert post(served, drawn()).status_code == 500, "of the first chunk"


def test_hanging_up_ends_the_work(served: Listening, gate: Gate) -> None:
    gate.free = 1
    before = served.requests(code="499")
    with httpx.stream("POST", f"{served.url}/v1/samples", json=drawn()) as answer:
        parts = answer.iter_raw()  # kept: letting go of it hangs up
        next(parts)
        settled(lambda: gate.runs == 2)
    settled(lambda: served.requests(code="499") == before + 1)
    gate.open.set()
    settled(lambda: served.probe.idle)
    assert gate.runs == 2


def test_a_full_queue_refuses_a_sound_but_not_the_rest_of_one(
    served: Listening, artifact: Artifact, gate: Gate
) -> None:
    gate.free = 1
    admission = served.probe.batcher.admission
    before = admission.max_queue
    with httpx.stream("POST", f"{served.url}/v1/samples", json=drawn(format="pcm")) as answer:
        parts = answer.iter_raw()
        received = next(parts)
        settled(lambda: gate.runs == 2)
        admission.max_queue = 0
        try:
            shed = admission.shed_samples
            assert post(served, drawn()).json()["error"]["code"] == "overloaded"
            gate.open.set()
            settled(lambda: admission.shed_samples > shed + 1)
        finally:
            admission.max_queue = before
        received += b"".join(parts)
    made = artifact.sample(seed=4, sizes={"t": LONG})["sound"]
    assert received == audio_files.pcm(audio_files.to_pcm16(made)[0])


def test_a_sound_comes_in_chunks_from_another_pool(
    chunked: str, store: Path, metrics_dir: Path
) -> None:
    with asyncio.Runner() as runner:
        both = Both(store, metrics_dir, runner, chunked)
        try:
            compare(both, "/v1/samples", {"json": drawn()})
            assert len(both.beside.works) == 8
        finally:
            both.close()


@pytest.mark.parametrize(
    ("fields", "code", "reason"),
    [
        ({"sizes": {"t": 605}}, "size_out_of_range", "has 31 chunks and 10,890 values"),
        ({"sizes": {"t": 1 << 24}}, "size_out_of_range", "numbers, of which at most"),
        ({"sizes": {"t": 1 << 29}}, "size_out_of_range", "t must be a whole number in [2, "),
        ({"n": 2}, "format_needs_one_sample", "format wav holds one sound"),
        ({"n": 20, "format": "json"}, "n_out_of_range", "n must be in [1, 3]"),
    ],
)
def test_limits_hold_before_anything_is_made(
    served: Listening, fields: dict[str, Any], code: str, reason: str
) -> None:
    error = post(served, drawn(**fields)).json()["error"]
    assert error["code"] == code
    assert reason in error["message"]


def test_memory_of_a_sound_is_counted_and_of_one_sent_as_it_is_made_its_inputs(
    chunked: str, tmp_path: Path
) -> None:
    limits = {"max_body_bytes": 1 << 15, "max_tensor_bytes": 1 << 15, "max_inflight_bytes": 1 << 17}
    speak = {"model": "codec", "signature": "speak", "inputs": {"mel": [[0] * 1500] * 4}}
    long = {"model": "codec", "sizes": {"t": 1500}}
    with serving(limited(tmp_path, **limits), chunked) as client:
        for body in (long, speak):
            for form in ("wav", "pcm", "wav"):  # it is given back
                answer = client.request("POST", "/v1/samples", json=body | {"format": form})
                assert len(answer.content) >= 2 * HOP * 1500
            answer = client.request("POST", "/v1/samples", json=body | {"format": "json"})
            assert code_of(answer) == (400, "size_out_of_range")
            assert "samples made of chunks, 1 of t=1500, take" in answer.text
        longer = long | {"sizes": {"t": 9000}, "format": "wav"}
        answer = client.request("POST", "/v1/samples", json=longer)
        assert code_of(answer) == (400, "size_out_of_range")
        assert "take 72,000 bytes of memory" in answer.text


def test_references_of_chunks_are_replayed(artifact: Artifact) -> None:
    for name in ("sample", "speak", "encode"):
        assert {"t": 25} in artifact.reference_sizes(name)


def test_a_sound_that_is_too_long_is_refused_before_it_is_decoded(served: Listening) -> None:
    silence = audio_files.wav(np.zeros((2400, 1), np.int16), 100)
    flac = audio_files.flac(np.zeros((240_000, 1), np.int16), 8000)
    for file in (silence, flac):
        given = {"heard": base64.b64encode(file).decode()}
        body = {"model": "codec", "signature": "encode", "inputs": given}
        error = post(served, body).json()["error"]
        assert error["code"] == "malformed_input"
        assert "s are too long; at most " in error["message"]


def test_a_sound_is_recreated_and_a_changed_one_is_not(
    served: Listening, chunked: str, tmp_path: Path
) -> None:
    answer = post(served, drawn())
    url = f"{served.url}/v1/verify"
    assert httpx.post(url, content=answer.content).json()["made_here"]
    file = tmp_path / "sound.wav"
    file.write_bytes(answer.content)
    assert verify.command([str(file), "--artifact", chunked]) == 0
    changed = bytearray(answer.content)
    changed[-3000] ^= 64
    assert httpx.post(url, content=bytes(changed)).json()["reason"] == "samples_differ"


def test_sample_writes_the_sound_of_the_server(
    served: Listening, chunked: str, tmp_path: Path
) -> None:
    flags = ["--seed", "4", "--n", "1", "--sizes", "t", str(LONG)]
    made = []
    for source in (chunked, served.url):
        out = tmp_path / f"{len(made)}"
        with contextlib.redirect_stdout(io.StringIO()):
            assert sample.command([source, *flags, "--out", str(out)]) == 0
        made.append(next(out.rglob("*.wav")).read_bytes())
    assert made[0] == made[1] == post(served, drawn()).content


def test_a_manifest_says_what_chunks_need(served: Listening) -> None:
    answer = httpx.get(f"{served.url}/v1/models/codec").json()["signatures"]
    assert answer["sample"]["chunk"]["context"] == 2
    assert json.dumps(answer).count('"max_abs"') == len(answer)
