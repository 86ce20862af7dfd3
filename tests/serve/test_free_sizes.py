"""Samples of free sizes in every protocol: the size is a parameter, and part of the promise."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from aigc.artifact import Artifact, audio_files
from aigc.artifact.image_files import png, read_png
from aigc.artifact.recreate import read_file
from aigc.sealing import seal
from tests.sealing.foreign import Tensor, node, write
from tests.serve.client import Client, code_of, limited, serving

SMALL, LARGE = {"h": 2, "w": 3}, {"h": 12, "w": 11}


@pytest.fixture(scope="module")
def client(free: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with serving(limited(tmp_path_factory.mktemp("metrics")), str(free)) as client:
        yield client


@pytest.fixture(scope="module")
def opened(free: Path) -> Artifact:
    return Artifact.open(free, verify=False)


def post(client: Client, path: str = "/v1/samples", **fields: Any) -> httpx.Response:
    return client.request("POST", path, json={"model": "free", **fields})


def pixels(answer: httpx.Response) -> list[np.ndarray[Any, Any]]:
    assert answer.status_code == 200, answer.text
    return [read_png(base64.b64decode(one["image"]))[0] for one in answer.json()["samples"]]


def picture(height: int, width: int) -> str:
    levels = np.arange(height * width, dtype=np.uint8).reshape(height, width, 1)
    return base64.b64encode(png(levels)).decode()


@pytest.mark.parametrize("sizes", [SMALL, LARGE, {"h": 5}, {}])
def test_a_sample_of_a_size_is_that_of_the_artifact(
    client: Client, opened: Artifact, sizes: dict[str, int]
) -> None:
    answer = post(client, n=3, seed=7, label=2, sizes=sizes)
    expected = opened.uint8("sample", opened.sample(seed=7, n=3, label=2, sizes=sizes))
    assert np.array_equal(pixels(answer), expected)
    assert answer.json()["sizes"] == {"h": 4, "w": 6, **sizes}
    alone = post(client, seed=7, first_index=2, label=2, sizes=sizes)
    assert np.array_equal(pixels(alone)[0], expected[2])


def test_sizes_at_the_same_time_keep_their_samples(client: Client, opened: Artifact) -> None:
    import asyncio

    async def all_at_once() -> list[httpx.Response]:
        bodies = [
            {"model": "free", "n": 2, "seed": i, "label": 1, "sizes": sizes}
            for i, sizes in enumerate((SMALL, LARGE, SMALL, {}, LARGE, SMALL))
        ]
        return await asyncio.gather(*(client.http.post("/v1/samples", json=b) for b in bodies))

    for seed, answer in enumerate(client.run(all_at_once())):
        sizes = answer.json()["sizes"]
        expected = opened.sample(seed=seed, n=2, label=1, sizes=sizes)
        assert np.array_equal(pixels(answer), opened.uint8("sample", expected))


def test_size_is_width_by_height_of_the_image(client: Client) -> None:
    by_name = post(client, seed=1, label=0, sizes={"h": 5, "w": 9})
    by_size = post(client, seed=1, label=0, size="18x10")
    assert np.array_equal(pixels(by_name), pixels(by_size))
    fields = {"model": "free", "seed": "1", "label": "0", "sizes": '{"h": 5, "w": 9}'}
    form = {name: (None, value) for name, value in fields.items()}
    assert np.array_equal(
        pixels(client.request("POST", "/v1/samples", files=form)), pixels(by_name)
    )


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"sizes": {"h": 13}}, "size_out_of_range", "sizes"),
        ({"sizes": {"h": 1 << 40}}, "size_out_of_range", "sizes"),
        ({"sizes": {"q": 1}}, "unknown_axis", "sizes"),
        ({"size": "17x10"}, "unsupported_value", "size"),
        ({"size": "18 x 10"}, "unsupported_value", "size"),
        ({"size": "18x10", "sizes": {"h": 6}}, "no_effect", "sizes"),
        ({"signature": "hum", "size": "18x10"}, "no_effect", "size"),
        ({"signature": "hum", "sizes": {"t": 41}}, "size_out_of_range", "sizes"),
    ],
)
def test_sizes_that_are_not_allowed_are_refused(
    client: Client, fields: dict[str, Any], code: str, param: str
) -> None:
    answer = post(client, **fields)
    assert code_of(answer) == (400, code)
    assert answer.json()["error"]["param"] == param


def test_limits_count_the_values_of_the_size(free: Path, tmp_path: Path) -> None:
    with serving(limited(tmp_path, max_values=2000, max_batch=8), str(free)) as client:
        assert post(client, n=8, label=0).status_code == 200
        assert code_of(post(client, n=4, label=0, sizes={"h": 12, "w": 12})) == (
            400,
            "n_out_of_range",
        )
        assert post(client, n=3, label=0, sizes={"h": 12, "w": 12}).status_code == 200
        given = {"image": [picture(16, 16)] * 2}
        assert code_of(post(client, signature="enlarge", inputs=given)) == (400, "n_out_of_range")


def test_given_images_keep_their_own_sizes_in_one_request(client: Client, opened: Artifact) -> None:
    shapes = [(4, 4), (4, 4), (16, 8), (8, 6), (9, 7)]
    given = {"image": [picture(*shape) for shape in shapes]}
    answer = post(client, signature="enlarge", inputs=given)
    found = pixels(answer)
    assert [one.shape[:2] for one in found] == [(8, 8), (8, 8), (32, 16), (16, 12), (16, 12)]
    assert [one["index"] for one in answer.json()["samples"]] == [0, 1, 2, 3, 4]
    for i, image in enumerate(given["image"]):
        alone = post(client, signature="enlarge", inputs={"image": image})
        assert np.array_equal(pixels(alone)[0], found[i])
    lines = post(client, signature="enlarge", inputs=given, format="ndjson").text.splitlines()
    assert len(lines) == len(shapes)
    refused = post(client, signature="enlarge", inputs=given, format="npy")
    assert code_of(refused) == (400, "format_needs_one_sample")


def test_a_sound_has_the_length_asked_for(client: Client, opened: Artifact) -> None:
    answer = post(client, signature="hum", seed=4, sizes={"t": 33}, format="npy")
    assert np.load(io.BytesIO(answer.content)).shape == (1, 1, 16 * 33 + 8)
    longer = opened.sample("hum", seed=4, sizes={"t": 40})["sound"]
    shorter = opened.sample("hum", seed=4, sizes={"t": 20})["sound"]
    # The noise is the same, so a causal generator begins with the same sound.
    assert np.array_equal(longer[..., : 16 * 20], shorter[..., : 16 * 20])


def test_a_file_says_its_size_and_is_recreated(client: Client, opened: Artifact) -> None:
    for fields, sizes in (({"sizes": LARGE}, LARGE), ({"size": "6x4"}, {"h": 2, "w": 3})):
        for form in ({"format": "png"}, {"n": 3, "format": "grid"}):
            answer = post(client, seed=9, label=5, **fields, **form)
            provenance = read_file(answer.content).provenance
            assert provenance is not None
            assert provenance.sizes == sizes
            verdict = client.request("POST", "/v1/verify", content=answer.content)
            assert verdict.json()["made_here"], verdict.text
    strip = post(client, "/v1/interpolate", from_seed=1, to_seed=2, frames=3, label=1, size="22x24")
    assert Image.open(io.BytesIO(strip.content)).size[1] == 24
    assert client.request("POST", "/v1/verify", content=strip.content).json()["made_here"]


def test_a_claimed_size_out_of_range_proves_nothing(client: Client) -> None:
    answer = post(client, seed=9, label=5, format="png")
    levels, provenance = read_png(answer.content)
    assert provenance is not None
    provenance.sizes["h"] = 1 << 30
    verdict = client.request("POST", "/v1/verify", content=png(levels, provenance)).json()
    assert verdict["reason"] == "cannot_be_made_again"


def test_openai_takes_a_size(client: Client, opened: Artifact) -> None:
    for size, sizes in (("22x24", LARGE), ("auto", {})):
        answer = post(client, "/v1/images/generations", prompt="five", seed=3, size=size)
        assert answer.status_code == 200, answer.text
        found = read_png(base64.b64decode(answer.json()["data"][0]["b64_json"]))[0]
        expected = opened.uint8("sample", opened.sample(seed=3, label=5, sizes=sizes))[0]
        assert np.array_equal(found, expected)
        assert answer.json()["size"] == ("22x24" if size != "auto" else "12x8")
    refused = post(client, "/v1/images/generations", prompt="five", size="512x512")
    assert code_of(refused) == (400, "unsupported_value")


def test_speech_has_words_of_the_length_asked_for(tmp_path: Path) -> None:
    nodes = [
        node("Gather", "table label", "voice"),
        node("Add", "z voice", "a"),
        node("ConvTranspose", "a w", "b", kernel_shape=[24], strides=[16]),
        node("Tanh", "b", "sound"),
    ]
    random = np.random.default_rng(0)
    weights = {"table": random.random((3, 2, 1)), "w": random.normal(0, 0.4, (2, 1, 24))}
    inputs: list[Tensor] = [("z", "float32", ["N", 2, "t"]), ("label", "int64", ["N"])]
    path = write(
        tmp_path / "say.onnx",
        inputs,
        [("sound", "float32", ["N", 1, None])],
        nodes,
        {name: array.astype(np.float32) for name, array in weights.items()},
    )
    uri = seal(
        path,
        name="say",
        store=tmp_path / "store",
        classes=("one", "two", "three"),
        axis={"t": "20..80:20:40"},
        kind={"sound": "audio"},
        sample_rate=8000,
    )
    artifact = Artifact.open(uri, verify=False)
    with serving(limited(tmp_path), uri) as client:
        body = {"model": "say", "input": "two three one two two one", "seed": 4}
        for sizes in ({"t": 80}, {"t": 20}, {}):
            answer = post(client, "/v1/audio/speech", **body, **({"sizes": sizes} if sizes else {}))
            assert answer.status_code == 200, answer.text
            labels = [1, 2, 0, 1, 1, 0]
            words = artifact.sample(seed=4, n=6, label=labels, sizes=sizes)["sound"]
            expected = np.concatenate([*audio_files.to_pcm16(words)])
            found = audio_files.read_sound(answer.content)
            assert np.array_equal(audio_files.to_pcm16(found.samples), expected)
            assert found.provenance is not None
            assert found.provenance.sizes == {"t": 40} | sizes
            verdict = client.request("POST", "/v1/verify", content=answer.content).json()
            assert verdict["made_here"], verdict
        refused = post(client, "/v1/audio/speech", **body, sizes={"t": 100})
        assert code_of(refused) == (400, "size_out_of_range")
        refused = post(client, "/v1/audio/speech", **body, sizes={"h": 20})
        assert code_of(refused) == (400, "unknown_axis")


def test_oip_names_free_axes_and_takes_them_as_parameters(client: Client, opened: Artifact) -> None:
    metadata = client.get("/v2/models/free").json()
    shapes = {one["name"]: one["shape"] for one in metadata["inputs"] + metadata["outputs"]}
    assert shapes == {
        "latent": [-1, 4, -1, -1],
        "label": [-1],
        "image": [-1, 1, -1, -1],
        "pixels": [-1, -1, -1, 1],
    }
    for sizes in (SMALL, LARGE):
        body = {"inputs": [], "parameters": {"seed": 5, "n": 2, "label": 1, **sizes}}
        answer = client.request("POST", "/v2/models/free/infer", json=body).json()
        images = next(one for one in answer["outputs"] if one["name"] == "image")
        expected = opened.sample(seed=5, n=2, label=1, sizes=sizes)["image"]
        assert images["shape"] == [*expected.shape]
        assert np.float32(images["data"]).tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("parameters", "shape", "reason"),
    [
        ({"h": 13}, None, "h must be a whole number in [2, 12], got 13"),
        ({"h": "4"}, None, "parameter h must be a whole number"),
        ({"q": 4}, None, "unknown parameter 'q'"),
        ({}, [1, 4, 13, 4], "h must be a whole number in [2, 12], got 13"),
        ({"h": 3}, [1, 4, 4, 4], "h is 4 by the inputs, so it cannot be 3"),
    ],
)
def test_oip_refuses_sizes_that_are_not_allowed(
    client: Client, parameters: dict[str, Any], shape: list[int] | None, reason: str
) -> None:
    inputs: list[dict[str, Any]] = []
    if shape is not None:
        data = [0.0] * int(np.prod(shape))
        inputs = [
            {"name": "latent", "datatype": "FP32", "shape": shape, "data": data},
            {"name": "label", "datatype": "INT64", "shape": [1], "data": [0]},
        ]
    body = {"inputs": inputs, "parameters": parameters}
    answer = client.request("POST", "/v2/models/free/infer", json=body)
    assert answer.status_code == 400
    assert reason in answer.json()["error"]
