"""Whole numbers may be written with a point, wherever a type says integer, and nothing else may."""

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from serve.settings import MAX_SEED
from tests.serve.client import Client, limited, serving


@pytest.fixture(scope="module")
def client(
    store: Path, words: str, voices: str, translator: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Client]:
    settings = limited(tmp_path_factory.mktemp("metrics"), max_batch=4, max_n=100)
    with serving(settings, f"{store}/tiny@1", words, voices, translator) as client:
        yield client


def post(client: Client, path: str, body: str) -> httpx.Response:
    return client.request("POST", path, content=body, headers={"content-type": "application/json"})


LATENT = {"name": "latent", "datatype": "FP32", "shape": [2, 16], "data": [0.5] * 32}
LABEL = {"name": "label", "datatype": "INT64", "shape": [2], "data": [3, 4]}
BOTH = {"inputs": [LATENT, LABEL]}
FRAMES = {"model": "tiny", "from_seed": 1, "to_seed": 2, "frames": 3, "frame_duration_ms": 40}
WORDS = {"model": "words", "seed": 1, "n": 2, "max_tokens": 5, "top_k": 2}
SAMPLES = {"model": "tiny", "n": 2, "seed": 7, "first_index": 3, "label": [1, 2]}
IMAGES = {"model": "tiny", "prompt": "", "n": 2, "seed": 7, "output_format": "jpeg"}
CASES: list[tuple[str, dict[str, Any], str, int]] = [
    ("/v1/samples", SAMPLES, "n", 2),
    ("/v1/samples", SAMPLES, "seed", 7),
    ("/v1/samples", SAMPLES, "first_index", 3),
    ("/v1/samples", {**SAMPLES, "label": 1}, "label", 1),
    ("/v1/images/generations", IMAGES, "n", 2),
    ("/v1/images/generations", {**IMAGES, "output_compression": 90}, "output_compression", 90),
    ("/v1/completions", WORDS, "n", 2),
    ("/v1/completions", WORDS, "max_tokens", 5),
    ("/v1/completions", WORDS, "top_k", 2),
    ("/v1/audio/speech", {"model": "voices", "input": "one", "seed": 7}, "seed", 7),
    ("/v1/interpolate", FRAMES, "frames", 3),
    ("/v1/interpolate", FRAMES, "to_seed", 2),
    ("/v2/models/tiny/infer", {"parameters": {"seed": 7, "n": 2, "label": 3}}, "n", 2),
    ("/v2/models/tiny/infer", {"parameters": {"seed": 7, "n": 2, "label": 3}}, "label", 3),
]


def without_times(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    if answer.headers["content-type"] != "application/json":
        return answer.content
    return {k: v for k, v in answer.json().items() if k not in ("created", "id")}


def written(body: dict[str, Any], field: str, number: str) -> str:
    """The body with a number in place of a field's, as it stands there."""
    inner = body.get("parameters", body)
    changed = {**inner, field: "HERE"}
    return json.dumps(changed if inner is body else {"parameters": changed}).replace(
        '"HERE"', number
    )


@pytest.mark.parametrize(("path", "body", "field", "number"), CASES)
def test_a_whole_number_may_have_a_point_or_an_exponent(
    client: Client, path: str, body: dict[str, Any], field: str, number: int
) -> None:
    expected = without_times(post(client, path, json.dumps(body)))
    for as_text in (f"{number}.0", f"{number}.000", f"{number}0e-1", f"{number}E0"):
        found = post(client, path, written(body, field, as_text))
        assert without_times(found) == expected, as_text


@pytest.mark.parametrize(("path", "body", "field", "number"), CASES)
@pytest.mark.parametrize("wrong", ["12.5", "NaN", "-Infinity", "1e400", "true", '"12"', "1e300"])
def test_what_is_no_whole_number_is_refused_by_name(
    client: Client, path: str, body: dict[str, Any], field: str, number: int, wrong: str
) -> None:
    answer = post(client, path, written(body, field, wrong))
    assert answer.status_code == 400
    error = answer.json()["error"]
    message = error if isinstance(error, str) else error["message"]
    assert re.search(rf"\b{field}\b", message), message
    if isinstance(error, dict):
        assert error["param"] == field


def test_lists_tensors_and_shapes_hold_whole_numbers(client: Client) -> None:
    fields = {**SAMPLES, "label": [1.0, 2]}
    assert without_times(post(client, "/v1/samples", json.dumps(fields))) == without_times(
        post(client, "/v1/samples", json.dumps(SAMPLES))
    )
    expected = post(client, "/v2/models/tiny/infer", json.dumps(BOTH)).json()
    label = {**LABEL, "shape": [2.0], "data": [3.0, 4]}
    latent = {**LATENT, "shape": [2.0, 16]}
    found = post(client, "/v2/models/tiny/infer", json.dumps({"inputs": [latent, label]})).json()
    assert found == expected
    wrong = {"inputs": [LATENT, {**LABEL, "data": [3.0, 4.5]}]}
    answer = post(client, "/v2/models/tiny/infer", json.dumps(wrong))
    assert (answer.status_code, "'label'" in answer.text) == (400, True)


def test_tensors_of_floats_are_left_as_they_are(client: Client) -> None:
    """Zeros have a sign, which an integer has not."""
    data = [-0.0, 1.0, 2.5, *[1e30] * 13]
    floats = {**LATENT, "shape": [1, 16], "data": data}
    label = {**LABEL, "shape": [1], "data": [3]}
    expected = post(client, "/v2/models/tiny/infer", json.dumps({"inputs": [floats, label]})).json()
    label["shape"] = [1.0]
    found = post(client, "/v2/models/tiny/infer", json.dumps({"inputs": [floats, label]})).json()
    assert found == expected


@pytest.mark.parametrize("number", ["9007199254740993.0", "9007199254740992.0", "1e16", "1e300"])
def test_floats_that_stand_for_several_whole_numbers_are_refused(
    client: Client, number: str
) -> None:
    answer = post(client, "/v1/samples", f'{{"model": "tiny", "seed": {number}}}')
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "seed")
    form = {"model": (None, "tiny"), "seed": (None, number)}
    answer = client.request("POST", "/v1/samples", files=form)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "seed")


@pytest.mark.parametrize("number", [f"{MAX_SEED}.0", f"{MAX_SEED}", "9007199254740991e0"])
def test_large_seeds_are_read_exactly(client: Client, number: str) -> None:
    answer = post(client, "/v1/samples", f'{{"model": "tiny", "seed": {number}}}')
    assert answer.headers["x-aigc-seed"] == str(MAX_SEED)


@pytest.mark.parametrize(
    ("number", "right"),
    [("2", True), ("2.0", True), ("2e0", True), ("2.5", False), ("two", False), ("NaN", False)],
)
def test_forms_hold_whole_numbers(client: Client, number: str, right: bool) -> None:
    form = {"model": (None, "tiny"), "n": (None, number), "label": (None, "3.0")}
    answer = client.request("POST", "/v1/samples", files=form)
    if right:
        assert [sample["label"] for sample in answer.json()["samples"]] == [3, 3]
    else:
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "n")


def test_the_document_types_whole_numbers_as_integer(client: Client) -> None:
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    for kind, field in (("SampleRequest", "n"), ("ImageRequest", "n"), ("CompletionRequest", "n")):
        types = {one.get("type") for one in schemas[kind]["properties"][field]["anyOf"]}
        assert types == {"integer", "null"}
    assert schemas["InputTensor"]["properties"]["shape"]["items"]["type"] == "integer"


def test_numbers_of_inputs_keep_what_they_are(client: Client) -> None:
    """Fields that may be floats are read as before."""
    picture = base64.b64encode(np.zeros(3, np.uint8).tobytes()).decode()
    body = {"model": "tiny", "signature": "encode", "n": 1.0, "inputs": {"image": picture}}
    answer = post(client, "/v1/samples", json.dumps(body))
    assert "image 'image' cannot be read" in answer.json()["error"]["message"]
