"""An image is ours when what it says makes it again; nothing that it claims does harm."""

import io
import json
import struct
import threading
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from PIL import Image, PngImagePlugin

from aigc.artifact import Artifact, Signature, Store, TensorSpec, image_files, latents
from aigc.commands import sample, verify
from serve import sampler
from tests.artifact.hostile import chunk
from tests.serve.artifacts import IMAGE, LATENT, publish_sealed, write_graph, write_references
from tests.serve.client import Client, error, limited, serving


@pytest.fixture(scope="session")
def gains(tmp_path_factory: pytest.TempPathFactory) -> str:
    """gains@1: images of a latent, as strong as a caller chooses."""
    root = tmp_path_factory.mktemp("gains")
    folder = root / "build"
    (folder / "references").mkdir(parents=True)
    gain = TensorSpec(
        name="gain", kind="setting", dtype="float32", shape=(), range=(0, 2), default=1.0
    )
    signature = Signature(graph="sample.onnx", inputs=(LATENT, gain), outputs=(IMAGE,))
    node = helper.make_node
    nodes = [
        node("Unsqueeze", ["gain", "axis"], ["factor"]),
        node("MatMul", ["latent", "w"], ["a"]),
        node("Mul", ["a", "factor"], ["b"]),
        node("Tanh", ["b"], ["c"]),
        node("Reshape", ["c", "shape"], ["image"]),
    ]
    weights = {
        "w": np.random.default_rng(1).normal(0, 0.4, (16, 64)).astype(np.float32),
        "axis": np.array([1], np.int64),
        "shape": np.array([-1, 1, 8, 8], np.int64),
    }
    write_graph(folder / "sample.onnx", nodes, weights, signature)
    feeds = {"latent": latents.normal(0, range(4), (16,)), "gain": np.ones(4, np.float32)}
    write_references(folder, "sample", feeds)
    return publish_sealed(Store(root), folder, "gains", {"sample": signature})


@pytest.fixture
def client(store: Path, colours: str, gains: str, metrics_dir: Path) -> Iterator[Client]:
    settings = limited(metrics_dir, max_batch=4, max_n=20)
    with serving(settings, f"{store}/tiny@1", f"{store}/tiny@2", colours, gains) as client:
        yield client


@pytest.fixture
def made_by(artifact: Artifact) -> image_files.Provenance:
    return image_files.Provenance(
        artifact="tiny@1", digest=artifact.manifest.digest, signature="sample", seed=7, index=3
    )


def post(client: Client, path: str, **fields: Any) -> bytes:
    answer = client.request("POST", path, json={"model": "tiny@1", **fields})
    assert answer.status_code == 200, answer.text
    return answer.content


def verdict(client: Client, data: bytes) -> dict[str, Any]:
    answer = client.request("POST", "/v1/verify", content=data)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/samples", {"format": "png"}),
        ("/v1/samples", {"format": "grid", "n": 3}),
        ("/v1/interpolate", {"from_seed": 7, "to_seed": 9, "frames": 4}),
    ],
)
def test_settings_are_part_of_what_made_it(
    client: Client, gains: str, tmp_path: Path, path: str, fields: dict[str, Any]
) -> None:
    plain = post(client, path, model="gains", **fields, **SEEDED.get(path, {}))
    fields = {**fields, "settings": {"gain": 0.25}}
    data = post(client, path, model="gains", **fields, **SEEDED.get(path, {}))
    assert not np.array_equal(image_files.read_png(data)[0], image_files.read_png(plain)[0])
    assert verdict(client, data)["made_here"]
    (tmp_path / "faint.png").write_bytes(data)
    assert verify.command([str(tmp_path / "faint.png"), "--artifact", gains]) == 0
    pixels, made_by = image_files.read_png(data)
    assert made_by is not None
    assert made_by.settings == {"gain": 0.25}
    for settings, reason in (
        ({"gain": 9.0}, "cannot_be_made_again"),
        ({"gain": 1.0}, "pixels_differ"),
        ({"volume": 1.0}, "cannot_be_made_again"),
    ):
        lie = image_files.png(pixels, replace(made_by, settings=settings))
        assert verdict(client, lie)["reason"] == reason


def test_many_pixels_are_compared_beside_the_event_loop(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []
    differences = image_files.differences

    def noted(image: np.ndarray, other: np.ndarray) -> np.ndarray | None:
        threads.append(threading.current_thread().name)
        return differences(image, other)

    monkeypatch.setattr(image_files, "differences", noted)
    monkeypatch.setattr(sampler.Sampler.encode, "__defaults__", (1,))
    assert verdict(client, post(client, "/v1/samples", format="grid", n=20))["made_here"]
    assert [name.split("_")[0] for name in threads] == ["encoder"]


SEEDED = {"/v1/samples": {"seed": 7}}


def test_the_command_says_what_made_a_sample_with_settings(
    client: Client, gains: str, tmp_path: Path
) -> None:
    flags = ["-n", "1", "--seed", "7", "--settings", "gain", "0.25", "--out", str(tmp_path)]
    assert sample.command([gains, *flags]) == 0
    data = (tmp_path / "gains-1-seed7-0.png").read_bytes()
    fields = {"format": "png", "seed": 7, "settings": {"gain": 0.25}}
    assert data == post(client, "/v1/samples", model="gains", **fields)


def test_a_grid_of_columns_that_cannot_be_is_refused_before_it_is_laid_out(
    gains: str, tmp_path: Path
) -> None:
    made_by = image_files.Provenance(
        artifact="gains@1",
        digest=Artifact.open(gains).manifest.digest,
        signature="sample",
        seed=7,
        index=0,
        n=2,
        columns=10**9,
    )
    (tmp_path / "wide.png").write_bytes(image_files.png(np.zeros((8, 8, 1), np.uint8), made_by))
    with pytest.raises(ValueError, match="a grid of 2 has no 1000000000 columns"):
        verify.command([str(tmp_path / "wide.png"), "--artifact", gains])


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/samples", {"format": "png"}),
        ("/v1/samples", {"format": "png", "seed": 7, "first_index": 9, "label": 4}),
        ("/v1/samples", {"format": "grid", "n": 7, "seed": 7}),
        ("/v1/samples", {"format": "grid", "n": 3, "seed": 7, "label": [1, 2, 3]}),
        ("/v1/samples", {"format": "grid", "n": 20, "model": "colours"}),
        ("/v1/interpolate", {"from_seed": 7, "to_seed": 9, "label": [1, 2], "frames": 6}),
        ("/v1/interpolate", {"from_seed": 7, "to_seed": 9, "index": 5, "model": "colours"}),
    ],
)
def test_verify_recognises_what_this_server_made(
    client: Client, path: str, fields: dict[str, Any]
) -> None:
    data = post(client, path, **fields)
    _, said = image_files.read_png(data)
    assert said is not None
    assert verdict(client, data) == {
        "made_here": True,
        "reason": "equal",
        "message": "recreated here: every pixel is equal",
        "artifact": said.artifact,
        "digest": said.digest,
        "signature": "sample",
        "seed": said.seed,
        "index": said.index,
        "label": said.label,
        "equal": True,
        "max_abs_difference": 0,
    }


def test_verify_finds_one_changed_pixel(client: Client) -> None:
    pixels, said = image_files.read_png(post(client, "/v1/samples", format="png", seed=7))
    touched = pixels.copy()
    touched[4, 5, 0] ^= 2
    found = verdict(client, image_files.png(touched, said))
    assert (found["made_here"], found["equal"]) == (False, False)
    assert (found["reason"], found["max_abs_difference"]) == ("pixels_differ", 2)
    found = verdict(client, image_files.png(pixels[:7], said))
    assert (found["reason"], found["max_abs_difference"]) == ("pixels_differ", None)


def test_a_lossless_webp_is_equal_and_a_jpeg_is_near(client: Client) -> None:
    pixels, said = image_files.read_png(post(client, "/v1/samples", format="png", seed=7))
    assert verdict(client, image_files.webp(pixels, said))["made_here"] is True
    found = verdict(client, image_files.jpeg(pixels, said))
    assert found["made_here"] is False
    assert 0 < found["max_abs_difference"] <= 12


def test_verify_rejects_images_without_or_with_foreign_provenance(
    client: Client, made_by: image_files.Provenance
) -> None:
    pixels = np.zeros((8, 8, 1), np.uint8)
    found = verdict(client, image_files.png(pixels))
    assert found.pop("message")
    assert found.pop("reason") == "no_provenance"
    assert found.pop("made_here") is False
    assert set(found.values()) == {None}
    assert verdict(client, image_files.png(pixels, made_by))["reason"] == "pixels_differ"


@pytest.mark.parametrize(
    ("claim", "reason", "message"),
    [
        ({"artifact": "other@1"}, "not_hosted", "'other@1' is not hosted here"),
        ({"artifact": "tiny"}, "not_hosted", "'tiny' is not hosted here"),
        ({"artifact": "tiny@2"}, "another_digest", "another digest"),
        ({"digest": "ab" * 32}, "another_digest", "another digest"),
        ({"signature": "dream"}, "cannot_be_made_again", "no signature 'dream'"),
        ({"signature": "encode"}, "cannot_be_made_again", "gives no image"),
        ({"signature": "numbers"}, "cannot_be_made_again", "gives no image"),
        ({"n": 21}, "cannot_be_made_again", "n must be in [1, 20]"),
        ({"n": 0}, "pixels_differ", "differs"),  # what is 0 is left out of the file
        ({"n": 10**15}, "cannot_be_made_again", "n must be in [1, 20]"),
        ({"n": -3}, "cannot_be_made_again", "got -3"),
        ({"n": 4, "columns": 10**12}, "cannot_be_made_again", "no 1000000000000 columns"),
        ({"n": 4, "columns": -1}, "cannot_be_made_again", "no -1 columns"),
        ({"seed": 2**60}, "cannot_be_made_again", "seed must be in"),
        ({"seed": 2**80}, "cannot_be_made_again", "seed must be in"),
        ({"index": -1}, "cannot_be_made_again", "first_index must be in"),
        ({"label": 10}, "cannot_be_made_again", "label must be in [0, 10), got 10"),
        ({"labels": (1, 12), "n": 2}, "cannot_be_made_again", "got 12"),
        ({"to_seed": -5, "n": 4}, "cannot_be_made_again", "seed must be in"),
        ({"to_seed": 8, "to_label": 99, "n": 4}, "cannot_be_made_again", "got 99"),
    ],
)
def test_verify_answers_provenance_that_cannot_be_true(
    client: Client,
    made_by: image_files.Provenance,
    claim: dict[str, Any],
    reason: str,
    message: str,
) -> None:
    data = image_files.png(np.zeros((8, 8, 1), np.uint8), replace(made_by, **claim))
    found = verdict(client, data)
    assert (found["made_here"], found["reason"]) == (False, reason)
    assert message in found["message"]


def with_text(text: str) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_itxt(image_files.PROVENANCE_KEY, text)
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


@pytest.mark.parametrize("artifact", ["\\ud800", "\\u0000", "<script>", "x" * 100_000])
def test_verify_answers_odd_artifact_names(client: Client, artifact: str) -> None:
    claim = {"digest": "", "signature": "sample", "seed": 1, "index": 0}
    text = json.dumps(claim)[:-1] + f', "artifact": "{artifact}"}}'
    found = verdict(client, with_text(text))
    assert found["reason"] in ("not_hosted", "no_provenance")


@pytest.mark.parametrize(
    "data",
    [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"GIF89a" + b"\0" * 99, b"RIFF\0\0\0\0WEBPVP8X"],
)
def test_verify_refuses_bodies_that_are_no_image(client: Client, data: bytes) -> None:
    answer = client.request("POST", "/v1/verify", content=data)
    assert error(answer)[:2] == (400, "malformed_image")


def test_bombs_animations_and_large_bodies_are_refused(client: Client) -> None:
    header = struct.pack(">IIBBBBB", 5000, 4000, 8, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    bomb += chunk(b"IDAT", zlib.compress(b"\0" * 5001 * 4000)) + chunk(b"IEND", b"")
    answer = client.request("POST", "/v1/verify", content=bomb)
    assert error(answer)[:2] == (400, "malformed_image")
    assert "too many" in error(answer)[2]
    moving = post(client, "/v1/interpolate", from_seed=1, to_seed=2, format="apng")
    answer = client.request("POST", "/v1/verify", content=moving)
    assert "an animation of 9 frames" in error(answer)[2]
    answer = client.request("POST", "/v1/verify", content=b"\0" * ((1 << 20) + 1))
    assert error(answer)[:2] == (413, "body_too_large")


def test_damaged_images_are_refused_or_judged(client: Client) -> None:
    random = np.random.default_rng(0)
    pixels, said = image_files.read_png(post(client, "/v1/samples", format="png", seed=7))
    for whole in (
        image_files.png(pixels, said),
        image_files.webp(pixels, said),
        image_files.jpeg(pixels, said),
    ):
        for _ in range(60):
            broken = bytearray(whole)
            for offset in random.integers(0, len(whole), 3):
                broken[offset] = random.integers(256)
            answer = client.request("POST", "/v1/verify", content=bytes(broken))
            assert answer.status_code in (200, 400), answer.text


def test_verify_is_503_before_models_are_hosted(
    metrics_dir: Path, made_by: image_files.Provenance
) -> None:
    with serving(limited(metrics_dir)) as client:
        data = image_files.png(np.zeros((8, 8, 1), np.uint8), made_by)
        answer = client.request("POST", "/v1/verify", content=data)
        assert error(answer)[:2] == (503, "not_ready")
