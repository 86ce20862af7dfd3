"""Images beyond the bounds of their axes: served as tiles by every protocol, equal to the untiled
graph."""

import asyncio
import base64
import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import httpx
import numpy as np
import pytest
from PIL import Image

from aigc.artifact import Artifact, Signature, TensorSpec, user_inputs
from aigc.artifact.axes import Axis
from aigc.artifact.image_files import png, read_png, tile
from aigc.artifact.tiling import Chunk, Tiling
from aigc.commands import sample
from serve.access.api_keys import CreateKey, key_entry
from serve.access.rate_ledger import Ledger
from serve.access.rate_limiter import in_process
from serve.hosting.desired_models import DesiredModels
from serve.hosting.pool_worker import ModelReplica
from serve.ingress import IngressReplica
from serve.settings import Limits, PoolSettings, Settings
from serve.tiled_samples import num_bytes
from tests.serve.client import Client, code_of, limited, running, serving
from tests.serve.hosting.pools import Beside
from tests.serve.listening import Listening, listening
from tests.serve.protocols.oip.wires import WIRES, connected


@pytest.fixture(scope="module")
def artifact(tiled: str) -> Artifact:
    return Artifact.open(tiled)


@pytest.fixture(scope="module")
def client(tiled: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with serving(limited(tmp_path_factory.mktemp("metrics"), max_batch=4), tiled) as client:
        yield client


def picture(height: int, width: int, seed: int = 0) -> bytes:
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, 1), np.uint8)
    return png(levels)


def flat(side: int) -> bytes:
    """A square of many pixels in a small file."""
    return png(np.zeros((side, side, 1), np.uint8))


def enlarge(*pictures: bytes, **fields: Any) -> dict[str, Any]:
    given = [base64.b64encode(one).decode() for one in pictures]
    return {"model": "up", "signature": "enlarge", "inputs": {"lr": given}, **fields}


def post(client: Client, body: dict[str, Any], path: str = "/v1/samples") -> httpx.Response:
    return client.request("POST", path, json=body)


def pixels(answer: httpx.Response) -> list[np.ndarray[Any, Any]]:
    assert answer.status_code == 200, answer.text
    return [read_png(base64.b64decode(one["image"]))[0] for one in answer.json()["samples"]]


def untiled(artifact: Artifact, file: bytes) -> np.ndarray[Any, Any]:
    """Picture that one run of the graph makes of another."""
    levels, _ = read_png(file)
    lr = levels.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255)
    hr = artifact._sessions["enlarge.onnx"].run(None, {"lr": lr})[0]
    image: np.ndarray[Any, Any] = artifact.uint8("enlarge", {"hr": hr})[0]
    return image


def test_given_images_beyond_the_bounds_equal_the_untiled_graph(
    client: Client, artifact: Artifact
) -> None:
    files = [
        picture(*size, seed)
        for seed, size in enumerate([(40, 33), (40, 33), (16, 14), (18, 9), (6, 100), (8, 8)])
    ]
    together = pixels(post(client, enlarge(*files)))
    for file, found in zip(files, together, strict=True):
        assert np.array_equal(found, untiled(artifact, file))
        assert np.array_equal(pixels(post(client, enlarge(file)))[0], found)
    assert together[0].shape == (80, 66, 1)


def test_tiles_of_requests_at_the_same_time_keep_to_their_images(
    client: Client, artifact: Artifact
) -> None:
    files = [picture(30 + 2 * (i % 2), 40, i) for i in range(6)]

    async def all_at_once() -> list[httpx.Response]:
        bodies = [enlarge(file) for file in files]
        return await asyncio.gather(*(client.http.post("/v1/samples", json=b) for b in bodies))

    for file, answer in zip(files, client.run(all_at_once()), strict=True):
        assert np.array_equal(pixels(answer)[0], untiled(artifact, file))


def test_a_drawn_size_beyond_the_bounds_is_that_of_the_artifact_and_is_verified(
    client: Client, artifact: Artifact
) -> None:
    sizes = {"height": 30, "width": 41}
    body = {"model": "up", "seed": 4, "size": "82x60"}
    whole = artifact.uint8("sample", artifact.sample(seed=4, n=3, sizes=sizes))
    assert np.array_equal(pixels(post(client, body | {"n": 3})), whole)
    assert np.array_equal(pixels(post(client, body | {"first_index": 2}))[0], whole[2])
    file = post(client, body | {"format": "png"}).content
    assert np.array_equal(read_png(file)[0], whole[0])
    assert client.request("POST", "/v1/verify", content=file).json()["made_here"]
    lines = post(client, body | {"n": 3, "format": "ndjson"}).text.splitlines()
    assert len(lines) == 3
    z = artifact.draw("sample", 4, [0], sizes=sizes)
    hr = artifact._sessions["sample.onnx"].run(None, z)[0]
    assert np.array_equal(artifact.uint8("sample", {"hr": hr})[0], whole[0])


def test_openai_draws_a_size_beyond_the_bounds(client: Client, artifact: Artifact) -> None:
    body = {"model": "up", "prompt": "", "seed": 1, "size": "82x60"}
    answer = post(client, body, "/v1/images/generations")
    assert answer.status_code == 200, answer.text
    found = read_png(base64.b64decode(answer.json()["data"][0]["b64_json"]))[0]
    sizes = {"height": 30, "width": 41}
    assert np.array_equal(found, artifact.uint8("sample", artifact.sample(seed=1, sizes=sizes))[0])


def test_interpolation_has_frames_of_a_size_beyond_the_bounds(
    client: Client, artifact: Artifact
) -> None:
    body = {"model": "up", "from_seed": 1, "to_seed": 2, "frames": 3, "size": "82x60"}
    strip = post(client, body, "/v1/interpolate")
    assert strip.status_code == 200, strip.text
    z = artifact.draw_between("sample", 1, 2, 3, sizes={"height": 30, "width": 41})
    hr = artifact._sessions["sample.onnx"].run(None, z)[0]
    frames = artifact.uint8("sample", {"hr": hr})
    assert np.array_equal(read_png(strip.content)[0], tile(frames, read_png(strip.content)[1]))
    assert client.request("POST", "/v1/verify", content=strip.content).json()["made_here"]


@pytest.fixture(scope="module")
def listened(tiled: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    with listening(limited(tmp_path_factory.mktemp("metrics"), max_batch=4), tiled) as one:
        yield one


@pytest.mark.parametrize("name", WIRES)
def test_open_inference_protocol_takes_and_draws_sizes_beyond_the_bounds(
    name: str, listened: Listening, artifact: Artifact
) -> None:
    sizes = {"height": 30, "width": 41}
    lr = np.random.default_rng(2).random((2, 1, 40, 33), np.float32)
    with connected(name, listened) as wire:
        given = wire.infer("up:enlarge", [("lr", lr)]).outputs
        drawn = wire.infer("up", seed=4, n=2, **sizes).outputs
        alone = wire.infer("up", seed=4, n=2, outputs=["pixels"], **sizes).outputs
        refusal = wire.refusal("up", height=31)
        assert refusal.status == wire.status(400)
        assert "height must be a multiple of 2 in [4, 65536], got 31" in refusal.message
        refusal = wire.refusal("up:enlarge", [("lr", lr[:, :, 1:])])
        assert "height must be a multiple of 2 in [4, 65536], got 39" in refusal.message
    whole = artifact._sessions["enlarge.onnx"].run(None, {"lr": lr})[0]
    assert given["hr"].tobytes() == whole.tobytes()
    assert np.array_equal(given["pixels"], artifact.uint8("enlarge", {"hr": whole}))
    whole = artifact.sample(seed=4, n=2, sizes=sizes)["hr"]
    assert drawn["hr"].tobytes() == whole.tobytes()
    assert np.array_equal(alone["pixels"], artifact.uint8("sample", {"hr": whole}))


def test_tiles_of_another_pool_are_those_of_this_replica(
    client: Client, tiled: str, tmp_path: Path
) -> None:
    limits = Limits(max_batch=4)
    pool = PoolSettings(limits=limits)

    def settings(name: str) -> Settings:
        return Settings(metrics_dir=str(tmp_path / name), limits=limits, pools={"large": pool})

    worker = ModelReplica(settings("large").replica_settings("large"), "of-large")
    hosted = DesiredModels(artifacts=(tiled,))
    target = DesiredModels(artifacts=(), pools={"large": hosted})
    ways = {"large": Beside(worker)}
    with (
        running(lambda: IngressReplica(settings("ingress"), "r", connections=ways)) as remote,
        contextlib.closing(worker),
    ):
        remote.run(worker.configure(hosted.document()))
        remote.run(remote.replica.configure(target.document()))
        drawn = {"model": "up", "seed": 4, "n": 2, "size": "82x60"}
        for body in (
            drawn,
            drawn | {"format": "ndjson"},
            drawn | {"n": 1, "format": "png"},
            enlarge(picture(40, 33), picture(16, 30)),
        ):
            near, far = (post(one, body) for one in (client, remote))
            assert far.status_code == 200, far.text
            assert far.content == near.content
            assert far.headers["x-aigc-replica"] == "of-large"
        strip = {"model": "up", "from_seed": 1, "to_seed": 2, "frames": 3, "size": "82x60"}
        tensor = {"inputs": [], "parameters": {"seed": 4, "height": 30}}
        for path, body in (("/v1/interpolate", strip), ("/v2/models/up/infer", tensor)):
            near, far = (post(one, body, path) for one in (client, remote))
            assert far.status_code == 200, far.text
            assert far.content == near.content


def test_sizes_that_are_no_multiples_are_refused_beyond_the_bounds_too(client: Client) -> None:
    answer = post(client, {"model": "up", "sizes": {"height": 31}})
    assert code_of(answer) == (400, "size_out_of_range")
    assert "a multiple of 2 in [4, 65536]" in answer.json()["error"]["message"]


def test_limits_hold_before_anything_is_made(tiled: str, tmp_path: Path) -> None:
    limits = limited(tmp_path, max_values=20_000, max_n=20)
    with serving(limits, tiled) as client:
        drawn = {"model": "up", "seed": 0}
        assert post(client, drawn | {"sizes": {"height": 40, "width": 40}}).status_code == 200
        for size in (1 << 16, 70):
            answer = post(client, drawn | {"sizes": {"height": size, "width": size}})
            assert code_of(answer) == (400, "size_out_of_range"), "of too many values"
        answer = post(client, drawn | {"sizes": {"height": 1000, "width": 4}})
        assert code_of(answer) == (400, "size_out_of_range"), "of too many tiles"
        answer = post(client, drawn | {"n": 3, "sizes": {"height": 40, "width": 40}})
        assert code_of(answer) == (400, "n_out_of_range"), "n counts by tiles and values"
        assert post(client, enlarge(picture(40, 40))).status_code == 200
        assert code_of(post(client, enlarge(picture(70, 70)))) == (400, "size_out_of_range")
        for large in ([picture(80, 80)], [picture(60, 60)] * 2):
            answer = post(client, enlarge(*large))
            assert code_of(answer) == (400, "malformed_input")
            assert "pixels are too many" in answer.json()["error"]["message"]


def test_memory_of_whole_images_and_tiles_is_counted_before_it_is_taken(
    tiled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = limited(
        tmp_path, max_body_bytes=1 << 15, max_tensor_bytes=1 << 15, max_inflight_bytes=1 << 18
    )
    with serving(limits, tiled) as client:
        fits = {"model": "up", "seed": 0, "sizes": {"height": 40, "width": 40}}
        bodies = [fits, fits | {"n": 2, "format": "ndjson"}, enlarge(picture(40, 40))]
        for body in [*bodies, *bodies]:  # it is given back
            assert post(client, body).status_code == 200
        monkeypatch.setattr(Tiling, "cut", lambda *_: pytest.fail("tiles were cut"))
        drawn = fits | {"sizes": {"height": 100, "width": 100}}
        tensor = {"inputs": [], "parameters": {"height": 100, "width": 100}}
        strip = {"model": "up", "from_seed": 0, "to_seed": 1, "frames": 4, "size": "80x80"}
        refusals = [
            post(client, drawn),
            post(client, drawn | {"format": "ndjson"}),
            post(client, fits | {"n": 4}),
            post(client, enlarge(picture(100, 100))),
            post(client, enlarge(picture(50, 51), picture(51, 50), picture(51, 52))),
            post(client, strip, "/v1/interpolate"),
        ]
        assert [code_of(one) for one in refusals] == [(400, "size_out_of_range")] * 6
        assert refusals[0].json()["error"]["message"] == (
            "samples made of tiles, 1 of height=100,width=100, take 335,040 bytes of memory with"
            " all parts; at most 131,072 are allowed for one request, half of"
            " limits.max_inflight_bytes: ask for fewer or smaller ones, or have it raised"
        )
        answer = post(client, tensor, "/v2/models/up/infer")
        assert answer.status_code == 400
        assert "limits.max_inflight_bytes" in answer.json()["error"]
        monkeypatch.setattr(user_inputs, "read_input", lambda *_: pytest.fail("it was decoded"))
        answer = post(client, enlarge(flat(190)))
        assert code_of(answer) == (400, "size_out_of_range")
        assert "the files that were given take 144,400 bytes" in answer.text


def test_memory_of_tiles_counts_what_each_has_of_fixed_shape_and_by_type() -> None:
    def tensor(name: str, dtype: Literal["float32", "int64"], *shape: int | str) -> TensorSpec:
        return TensorSpec(name=name, kind="vector", dtype=dtype, shape=shape)

    signature = Signature(
        graph="a.onnx",
        inputs=(tensor("x", "float32", 1, "t"), tensor("style", "float32", 1000)),
        outputs=(tensor("y", "int64", 1, "t"),),
        axes={"t": Axis(min=1, max=8, default=4)},
        chunk=Chunk(axis="t", context=2, max_abs=0.0, sizes=()),
    )
    runner: Any = SimpleNamespace(
        name="s",
        artifact=SimpleNamespace(signature=lambda name: signature),
        spec=signature.at({"t": 20}),
        tiling=signature.tiling({"t": 20}),
        values_per_sample=20,
    )
    inputs, outputs, tile = 4 * 20 + 4 * 1000, 8 * 20, 4 * 8 + 4 * 1000 + 8 * 8
    assert num_bytes(runner, 1, whole=True) == inputs + outputs + 4 * tile
    assert num_bytes(runner, 3, whole=True) == 3 * (inputs + 2 * outputs + 4 * tile)
    assert num_bytes(runner, 3, whole=False) == 3 * inputs


def test_a_key_pays_for_each_tile_and_by_size(tiled: str, tmp_path: Path) -> None:
    secret = "0123456789abcdef0123456789abcdef"
    file = tmp_path / "keys.toml"
    key = CreateKey(action="new", name="alice", samples_per_s=0.01, burst=90)
    file.write_text(key_entry(key, secret))
    settings = replace(limited(tmp_path), keys=str(file))
    headers = {"authorization": f"Bearer {secret}"}
    tiles = {"model": "up", "sizes": {"height": 40, "width": 33}}  # 3 x 3 of 3.5 default sizes
    small = {"model": "up", "n": 5, "sizes": {"height": 4, "width": 4}}
    tall: dict[str, Any] = {"model": "up", "n": 3, "sizes": {"height": 16}}
    tensor: dict[str, Any] = {"inputs": [], "parameters": {"height": 16}}
    spent: list[tuple[str, dict[str, Any], int]] = [
        ("/v1/samples", tiles, 32),
        ("/v1/samples", enlarge(picture(40, 33)), 32),
        ("/v1/samples", small, 2),
        ("/v1/samples", tall, 6),
        ("/v1/samples", tall | {"format": "ndjson"}, 6),
        ("/v1/samples", enlarge(picture(8, 8), picture(8, 8)), 2),
        ("/v1/samples", enlarge(picture(16, 14), picture(8, 8)), 5),
        ("/v2/models/up/infer", tensor, 2),
    ]
    with running(
        lambda: IngressReplica(settings, "r", None, in_process(Ledger())), tiled
    ) as client:
        left = 90
        for path, body, cost in spent:
            answer = client.request("POST", path, json=body, headers=headers)
            assert answer.status_code == 200, answer.text
            left -= cost
            assert answer.headers["x-ratelimit-remaining"] == str(left)
        for path, body, _ in spent[:2]:
            answer = client.request("POST", path, json=body, headers=headers)
            assert code_of(answer) == (429, "rate_limited")


def test_sample_writes_an_image_beyond_the_bounds(
    tiled: str, artifact: Artifact, tmp_path: Path
) -> None:
    source = tmp_path / "lr.png"
    source.write_bytes(picture(40, 33))
    flags = ["--signature", "enlarge", "--inputs", "lr", str(source), "--n", "1"]
    assert sample.command([tiled, *flags, "--out", str(tmp_path / "made")]) == 0
    (made,) = (one for one in (tmp_path / "made").rglob("*.png") if ".." not in one.name)
    found = np.asarray(Image.open(made).convert("L"))
    assert np.array_equal(found, untiled(artifact, source.read_bytes())[..., 0])
