"""Between two seeds: the ends are samples, the way is a sphere, the image says where it leads."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image, ImageSequence

from aigc.artifact import Artifact, image_files, latents
from aigc.commands import verify
from serve.settings import MAX_SEED
from tests.serve.client import Client, error, limited, serving
from tests.serve.conftest import images


@pytest.fixture
def client(store: Path, colours: str, metrics_dir: Path) -> Iterator[Client]:
    settings = limited(metrics_dir, max_batch=4, max_n=20)
    with serving(settings, f"{store}/tiny@1", colours) as client:
        yield client


def interpolate(client: Client, **fields: Any) -> httpx.Response:
    body = {"model": "tiny@1", "from_seed": 7, "to_seed": 8, **fields}
    return client.request("POST", "/v1/interpolate", json=body)


def frames(answer: httpx.Response, width: int = 8) -> list[np.ndarray]:
    """The frames of a strip, two pixels apart."""
    assert answer.status_code == 200, answer.text
    strip, _ = image_files.read_png(answer.content)
    return [strip[:, x : x + width] for x in range(0, strip.shape[1], width + 2)]


def sample(client: Client, **fields: Any) -> np.ndarray:
    return image_files.read_png(images(client.samples(**fields))[0])[0]


@pytest.mark.parametrize("label", [None, 3, [3, 5]])
def test_the_ends_are_the_samples_of_their_seeds(client: Client, label: Any) -> None:
    asked = {} if label is None else {"label": label}
    strip = frames(interpolate(client, frames=7, index=2, **asked))
    first, last = label if isinstance(label, list) else (label, label)
    assert len(strip) == 7
    assert np.array_equal(strip[0], sample(client, seed=7, first_index=2, label=first))
    assert np.array_equal(strip[-1], sample(client, seed=8, first_index=2, label=last))
    assert len({frame.tobytes() for frame in strip}) == 7


def test_frames_are_what_the_artifact_gives_on_the_sphere(
    client: Client, artifact: Artifact
) -> None:
    a, b = (latents.normal(seed, [0], (16,))[0].astype(np.float64) for seed in (7, 8))
    angle = np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    middle = (np.sin(angle / 2) / np.sin(angle) * (a + b)).astype(np.float32)
    inputs = {"latent": middle[None], "label": np.array([3])}
    expected = artifact.uint8("sample", artifact.run("sample", inputs))[0]
    assert np.array_equal(frames(interpolate(client, frames=3, label=3))[1], expected)


def test_swapped_ends_give_reversed_frames(client: Client) -> None:
    there = frames(interpolate(client, frames=6, label=1))
    back = frames(interpolate(client, frames=6, label=1, from_seed=8, to_seed=7))
    assert all(np.array_equal(a, b) for a, b in zip(there, reversed(back), strict=True))


def test_interpolating_a_seed_with_itself_repeats_its_frame(client: Client) -> None:
    strip = frames(interpolate(client, frames=4, to_seed=7))
    assert len({frame.tobytes() for frame in strip}) == 1


@pytest.mark.parametrize(("form", "media"), [("apng", "image/apng"), ("gif", "image/gif")])
def test_an_animation_has_the_frames_of_the_strip(client: Client, form: str, media: str) -> None:
    answer = interpolate(client, frames=5, label=3, format=form, frame_duration_ms=40)
    assert answer.headers["content-type"] == media
    moving = Image.open(io.BytesIO(answer.content))
    assert moving.info["loop"] == 0
    found = [np.asarray(f.convert("L"))[..., None] for f in ImageSequence.Iterator(moving)]
    strip = frames(interpolate(client, frames=5, label=3))
    assert all(np.array_equal(a, b) for a, b in zip(found, strip, strict=True))
    assert moving.info["duration"] == 40
    said = moving.info["comment"].decode() if form == "gif" else moving.text["aigc"]
    assert json.loads(said)["digital_source_type"] == image_files.SOURCE_TYPE


def test_the_strip_and_the_headers_say_what_made_them(client: Client, artifact: Artifact) -> None:
    answer = interpolate(client, frames=5, index=4, label=[3, 5])
    _, made_by = image_files.read_png(answer.content)
    assert made_by == image_files.Provenance(
        artifact="tiny@1",
        digest=artifact.manifest.digest,
        signature="sample",
        seed=7,
        index=4,
        label=3,
        n=5,
        columns=5,
        to_seed=8,
        to_label=5,
    )
    said = {k: v for k, v in answer.headers.items() if k.startswith("x-aigc")}
    assert said["x-aigc-seed"] == "7"
    assert said["x-aigc-to-seed"] == "8"
    assert said["x-aigc-first-index"] == "4"
    assert said["x-aigc-model"] == "tiny@1"


def test_colours_without_classes(client: Client) -> None:
    strip = frames(interpolate(client, model="colours", frames=20), width=6)
    assert [frame.shape for frame in strip] == [(4, 6, 3)] * 20


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"frames": 1}, (400, "frames_out_of_range", "frames must be in [2, 20] for tiny@1")),
        ({"frames": 21}, (400, "frames_out_of_range", "got 21")),
        ({"to_seed": MAX_SEED + 1}, (400, "seed_out_of_range", "got 9007199254740992")),
        ({"label": [1, 2, 3]}, (400, "malformed_body", "length 2")),
        ({"signature": "numbers"}, (400, "format_needs_image", "gives no image")),
        ({"signature": "encode"}, (400, "signature_needs_input", "needs image")),
        ({"format": "mp4"}, (400, "malformed_body", "mp4")),
        ({"frame_duration_ms": 1}, (400, "frame_duration_out_of_range", "[20, 10000], got 1")),
        ({"seed": 1}, (400, "malformed_body", "unknown field `seed`")),
    ],
)
def test_interpolate_refuses_bad_fields(
    client: Client, fields: dict[str, Any], expected: tuple[int, str, str]
) -> None:
    status, code, message = error(interpolate(client, **fields))
    assert (status, code) == expected[:2]
    assert expected[2] in message


def test_the_command_makes_a_strip_again(
    client: Client, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "strip.png"
    path.write_bytes(interpolate(client, frames=5, label=[3, 5]).content)
    assert verify.command([str(path), "--artifact", f"{store}/tiny@1"]) == 0
    said = capsys.readouterr()
    assert "seed 7, index 0, label 3, on the way to seed 8, label 5, a grid of 5" in said.out
    assert "every pixel is equal" in said.err
