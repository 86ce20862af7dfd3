"""Imported artifacts do what their signatures allow, in every protocol and command."""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aigc.artifact import Artifact
from aigc.artifact.audio_files import read_sound
from aigc.artifact.image_files import read_image
from aigc.commands import sample, verify
from aigc.sealing import seal
from serve.settings import Settings
from tests.sealing.foreign import generator, upscaler, vocoder
from tests.serve.client import Client, serving

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """URIs of an image generator, an upscaler and an audio decoder."""
    folder = tmp_path_factory.mktemp("imported")
    names = ("no", "yes", "maybe")
    store = folder / "store"
    return {
        "faces": seal(generator(folder / "g.onnx"), name="faces", store=store, classes=names),
        "large": seal(upscaler(folder / "u.onnx"), name="large", store=store, range="0..1"),
        "voice": seal(vocoder(folder / "v.onnx"), name="voice", store=store, sample_rate=16000),
    }


@pytest.fixture(scope="module")
def client(imported: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    metrics = tmp_path_factory.mktemp("metrics")
    with serving(Settings(metrics_dir=str(metrics)), *imported.values()) as client:
        yield client


def posted(client: Client, path: str, **body: Any) -> Any:
    answer = client.request("POST", path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def file(text: str) -> np.ndarray:
    return read_image(base64.b64decode(text))[0]


def test_models_are_described_as_imported(client: Client) -> None:
    models = {one["name"]: one for one in client.get("/v1/models").json()["data"]}
    assert {one["family"] for one in models.values()} == {"imported"}
    assert models["large"]["preset"] == "imported:u.onnx"
    assert models["large"]["licence"] == "unstated"
    assert [*models["large"]["signatures"]] == ["transform"]
    assert client.get("/openapi.json").status_code == 200
    assert client.get("/").status_code == 200


def test_generator_keeps_the_promise_of_seeds(client: Client, imported: dict[str, str]) -> None:
    artifact = Artifact.open(imported["faces"])
    pixels = artifact.uint8("sample", artifact.sample(seed=7, n=3, label=[0, 1, 2]))
    body = posted(client, "/v1/samples", model="faces", n=3, seed=7, label=[0, 1, 2])
    assert all(
        np.array_equal(file(one["image"]), pixels[i]) for i, one in enumerate(body["samples"])
    )
    one = posted(client, "/v1/samples", model="faces", seed=7, first_index=2, label=2)
    assert np.array_equal(file(one["samples"][0]["image"]), pixels[2])
    drawn = posted(client, "/v1/images/generations", model="faces", prompt="yes", seed=7)
    expected = artifact.uint8("sample", artifact.sample(seed=7, label=1))[0]
    assert np.array_equal(file(drawn["data"][0]["b64_json"]), expected)
    inferred = posted(
        client, "/v2/models/faces/infer", inputs=[], parameters={"seed": 7, "n": 1, "label": 1}
    )
    output = next(one for one in inferred["outputs"] if one["name"] == "image")
    assert np.array_equal(
        np.float32(output["data"]), artifact.sample(seed=7, label=1)["image"].ravel()
    )
    png = client.samples(model="faces", seed=7, format="png", label=1).content
    verdict = client.request("POST", "/v1/verify", content=png).json()
    assert (verdict["made_here"], verdict["equal"]) == (True, True)
    ends = {"model": "faces", "from_seed": 1, "to_seed": 2, "frames": 3, "label": 0}
    assert client.request("POST", "/v1/interpolate", json=ends).status_code == 200


def test_only_signature_needs_no_name(client: Client) -> None:
    """The upscaler's is `transform`: no client has to know."""
    levels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    data = io.BytesIO()
    Image.fromarray(levels).save(data, "PNG")
    given = base64.b64encode(data.getvalue()).decode()
    body = posted(client, "/v1/samples", model="large", inputs={"lr": given})
    assert (body["signature"], body["seed"]) == ("transform", None)
    large = file(body["samples"][0]["image"])
    assert np.array_equal(large, levels.repeat(2, 0).repeat(2, 1))
    together = posted(client, "/v1/samples", model="large", inputs={"lr": [given] * 3})
    assert all(np.array_equal(file(one["image"]), large) for one in together["samples"])
    numbers = (levels.transpose(2, 0, 1) / np.float32(255)).ravel().tolist()
    tensor = {"name": "lr", "datatype": "FP32", "shape": [1, 3, 8, 8], "data": numbers}
    inferred = posted(
        client, "/v2/models/large/infer", inputs=[tensor], outputs=[{"name": "pixels"}]
    )
    assert np.array_equal(np.uint8(inferred["outputs"][0]["data"]), large.ravel())
    assert client.get("/v2/models/large").json()["name"] == "large"
    answer = client.request("POST", "/v1/images/generations", json={"model": "large", "prompt": ""})
    assert answer.json()["error"]["code"] == "signature_needs_input"


def test_numbers_of_two_axes_are_an_input(client: Client, imported: dict[str, str]) -> None:
    artifact = Artifact.open(imported["voice"])
    mels = np.random.default_rng(0).normal(size=(2, 4, 8)).astype(np.float32)
    waves = artifact.run("decode", {"mel": mels})["wav"]
    for given, rows in ((mels[0].tolist(), 1), (mels.tolist(), 2)):
        body = posted(client, "/v1/samples", model="voice", inputs={"mel": given})
        found = [read_sound(base64.b64decode(one["audio"]), 1 << 20) for one in body["samples"]]
        assert len(found) == rows
        for i, sound in enumerate(found):
            assert sound.rate_hz == 16000
            np.testing.assert_allclose(sound.samples, waves[i], atol=1 / 32768)
    for wrong in ([[1.0] * 8] * 3, [1.0] * 32, [[1.0] * 8, [1.0]] * 2, [[[[1.0]]]], 7.0, "x"):
        answer = client.request(
            "POST", "/v1/samples", json={"model": "voice", "inputs": {"mel": wrong}}
        )
        assert answer.status_code == 400, wrong


def test_commands_take_imported_artifacts(
    client: Client, imported: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (20, 10), "teal").save(tmp_path / "teal.png")
    np.save(tmp_path / "mel.npy", np.zeros((4, 8), np.float32))
    for name, arguments in {
        "faces": ["--seed", "3", "--label", "1"],
        "large": ["--inputs", "lr", str(tmp_path / "teal.png")],
        "voice": ["--inputs", "mel", str(tmp_path / "mel.npy")],
    }.items():
        assert verify.command([imported[name]]) == 0
        out = tmp_path / name
        assert sample.command([imported[name], "-n", "2", "--out", str(out), *arguments]) == 0
        assert len(list(out.iterdir())) >= 2
    made = next(path for path in (tmp_path / "faces").iterdir() if path.stem.endswith("-1"))
    assert verify.command([str(made), "--artifact", imported["faces"]]) == 0
    assert "recreated" in capsys.readouterr().err


def test_manifest_of_version_2_is_refused_by_a_reader_of_version_1(
    imported: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from aigc.artifact import manifest

    monkeypatch.setattr(manifest, "FORMAT_VERSIONS", (1,))
    data = (Path(imported["faces"]) / "manifest.json").read_bytes()
    assert json.loads(data)["format_version"] == 2
    with pytest.raises(ValueError, match=r"format_version 2 is unknown.*upgrade aigc"):
        manifest.parse(data)
