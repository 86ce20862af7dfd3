"""Images with transparency, and of more channels than pictures have, over HTTP."""

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aigc.artifact import Artifact
from aigc.artifact.image_files import read_image
from aigc.commands.sample import command
from serve.settings import Settings
from tests.channels import OfChannels
from tests.serve.client import Client, serving
from tests.serve.listening import listening

pytestmark = pytest.mark.process


def test_a_server_gives_transparency(of_channels: OfChannels, metrics_dir: Path) -> None:
    made = Artifact.open(of_channels(4))
    pixels = made.uint8("sample", made.sample(seed=5, n=2))
    with serving(Settings(metrics_dir=str(metrics_dir)), str(of_channels(4))) as client:
        for position, one in enumerate(asked(client, n=2, seed=5)["samples"]):
            file = base64.b64decode(one["image"])
            assert np.array_equal(read_image(file)[0], pixels[position])
        grid = client.samples(model="many@1", n=2, seed=5, format="grid")
        verdict = client.request("POST", "/v1/verify", content=grid.content).json()
        assert (verdict["made_here"], verdict["equal"]) == (True, True)
        for form in ("png", "apng", "gif"):
            body = {"model": "many", "from_seed": 1, "to_seed": 2, "frames": 3, "format": form}
            assert client.request("POST", "/v1/interpolate", json=body).status_code == 200
        image: dict[str, Any] = {"model": "many", "prompt": "", "seed": 5, "n": 2}
        for form in ("png", "webp"):
            body = image | {"output_format": form}
            answer = client.request("POST", "/v1/images/generations", json=body).json()
            found = read_image(base64.b64decode(answer["data"][1]["b64_json"]))[0]
            assert np.array_equal(found, pixels[1])
        for field, value in (("output_format", "jpeg"), ("background", "opaque")):
            answer = client.request("POST", "/v1/images/generations", json=image | {field: value})
            assert answer.status_code == 400
            error = answer.json()["error"]
            assert (error["code"], error["param"]) == ("unsupported_value", field)
            assert "images with transparency" in error["message"]


def test_a_server_gives_five_channels_as_numbers(
    of_channels: OfChannels, metrics_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Artifact.open(of_channels(5)).sample(seed=5, n=2)["image"]
    with serving(Settings(metrics_dir=str(metrics_dir)), str(of_channels(5))) as client:
        body = asked(client, n=2, seed=5)
        numbers = [one["outputs"]["image"] for one in body["samples"]]
        assert np.array_equal(np.array(numbers, np.float32), made)
        for form in ("png", "grid"):
            answer = client.samples(model="many@1", format=form)
            assert answer.status_code == 400
            error = answer.json()["error"]
            assert (error["code"], error["param"]) == ("format_needs_image", "format")
            assert "gives images of 5 channels" in error["message"]
        image = {"model": "many", "prompt": ""}
        answer = client.request("POST", "/v1/images/generations", json=image)
        assert answer.json()["error"]["code"] == "model_gives_no_image"
        ends = {"model": "many", "from_seed": 1, "to_seed": 2}
        answer = client.request("POST", "/v1/interpolate", json=ends)
        assert answer.json()["error"]["code"] == "format_needs_image"
    with listening(Settings(metrics_dir=str(metrics_dir)), str(of_channels(5))) as served:
        out = str(tmp_path / "of-the-command")
        assert command([served.url, "-n", "2", "--seed", "5", "--out", out]) == 0
    assert np.array_equal(np.load(Path(capsys.readouterr().out.strip())), made)


def asked(client: Client, **fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = client.samples(model="many@1", **fields).json()
    return found
