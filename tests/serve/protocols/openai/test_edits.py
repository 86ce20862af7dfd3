"""Edits of images through OpenAI's own SDK: exported models against a replica of this process."""

import base64
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from aigc import models
from aigc.artifact import Artifact, image_files
from aigc.artifact.manifest import Training
from aigc.commands.export import write_artifact
from serve.settings import Limits, Settings
from tests.manifests import manifest
from tests.serve.listening import Listening, listening
from tests.small_models import smaller

PRESETS = {"filler": "inpainter:holes", "large": "upscaler:x2"}


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Small models with weights that are drawn, exported."""
    found = {}
    for name, preset in PRESETS.items():
        torch.manual_seed(0)
        config = smaller(models.preset(preset))
        model = models.build(replace(config, model=replace(config.model, largest=16))).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        # One run is enough here: tiles are proven in tests/models/test_restoration.py.
        parts = {key: replace(part, tile=False) for key, part in model.exports().items()}
        model.exports = lambda parts=parts: parts  # type: ignore[method-assign,misc]
        folder = tmp_path_factory.mktemp("edits") / name
        folder.mkdir()
        training = Training(config={}, samples=0, data={}, wall_seconds=0, workers=0)
        kind, _, called = preset.partition(":")
        fields: dict[str, Any] = {"name": name, "model": kind, "preset": called}
        write_artifact(model, (), manifest({}, training=training, **fields), folder)
        found[name] = str(folder)
    return found


@pytest.fixture(scope="module")
def served(
    artifacts: dict[str, str], store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Listening]:
    metrics_dir = str(tmp_path_factory.mktemp("metrics"))
    settings = Settings(metrics_dir=metrics_dir, limits=Limits(max_batch=4))
    with listening(settings, *artifacts.values(), f"{store}/tiny@1") as served:
        yield served


@pytest.fixture(scope="module")
def client(served: Listening) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0) as client:
        yield client


def levels(seed: int = 0, height: int = 28, width: int = 32) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def hole(height: int = 28, width: int = 32) -> NDArray[np.bool_]:
    filled = np.zeros((height, width), bool)
    filled[5:15, 9:20] = True
    return filled


def transparent(pixels: NDArray[np.uint8], filled: NDArray[np.bool_]) -> bytes:
    """A PNG whose `filled` pixels are fully transparent, and all others a little."""
    alpha = np.where(filled, 0, 1 + 254 * (pixels[..., 0] > 7)).astype(np.uint8)
    return image_files.png(np.concatenate([pixels, alpha[..., None]], 2))


def pixels_of(answer: Any) -> NDArray[np.uint8]:
    (image,) = answer.data
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(image.b64_json))))


def test_pixels_outside_of_the_mask_come_back_as_they_were(client: openai.OpenAI) -> None:
    image, filled = levels(), hole()
    answer = client.images.edit(
        model="filler",
        prompt="",
        image=image_files.png(image),
        mask=transparent(levels(1), filled),
    )
    made = pixels_of(answer)
    np.testing.assert_array_equal(made[~filled], image[~filled])
    assert (made[filled] != image[filled]).any()
    assert answer.size == "32x28"
    assert answer.model_extra is not None
    assert answer.model_extra["aigc"]["signature"] == "inpaint"


def test_transparency_of_the_image_is_a_mask_too(
    client: openai.OpenAI, artifacts: dict[str, str]
) -> None:
    image, filled = levels(), hole()
    image[..., 0] |= 8  # opaque wherever it is not to be filled
    answer = client.images.edit(model="filler", prompt="", image=transparent(image, filled))
    x = image.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(127.5) - np.float32(1)
    artifact = Artifact.open(artifacts["filler"])
    made = artifact.run("inpaint", {"image": x, "mask": filled[None, None].astype(np.float32)})
    np.testing.assert_array_equal(pixels_of(answer), artifact.uint8("inpaint", made)[0])


def test_image_alone_goes_to_a_model_without_a_mask(client: openai.OpenAI) -> None:
    image = image_files.png(levels(height=12, width=9))
    answer = client.images.edit(model="large", prompt="large", image=[image], size="auto")
    assert pixels_of(answer).shape == (24, 18, 3)
    webp = client.images.edit(model="large", prompt="", image=image, output_format="webp")
    np.testing.assert_array_equal(pixels_of(webp), pixels_of(answer))


@pytest.mark.parametrize(
    ("model", "fields", "message"),
    [
        ("filler", {"mask": image_files.png(levels())}, "mask must be a PNG or WebP with transp"),
        ("filler", {}, "mask must be a PNG or WebP with transparency"),
        ("filler", {"mask": transparent(levels(0, 8, 8), hole(8, 8))}, "the image's 32 x 28, it"),
        ("filler", {"image": image_files.png(levels(0, 30, 32))}, "image of 32 x 30 pixels: .*h"),
        ("filler", {"mask": b"no file"}, "image 'mask' cannot be read: not a PNG"),
        ("filler", {"prompt": "a dog"}, "prompt must be empty or the model's name"),
        ("large", {"mask": transparent(levels(), hole())}, "mask has no effect: large@1 takes the"),
        ("large", {"n": 2}, "n must be 1: large@1 makes one image of an image, got 2"),
        ("large", {"size": "64x64"}, "size must be auto"),
        ("large", {"response_format": "url"}, "response_format must be"),
        ("large", {"extra_body": {"seed": 3}}, "seed has no effect"),
        ("large", {"extra_body": {"signature": "enlarge"}}, "signature 'enlarge' of large@1 makes"),
        ("large", {"extra_body": {"strength": 1}}, "unknown field `strength`"),
        ("tiny", {}, "tiny@1 makes no image of an image"),
    ],
)
def test_what_has_no_effect_or_meaning_is_refused(
    client: openai.OpenAI, model: str, fields: dict[str, Any], message: str
) -> None:
    given = {"prompt": "", "image": image_files.png(levels())} | fields
    with pytest.raises(openai.BadRequestError, match=message):
        client.images.edit(model=model, **given)


def test_page_takes_a_file_as_a_mask(served: Listening, browser: Any) -> None:
    page = browser.new_page()
    page.goto(served.url)
    page.locator("#model option").nth(1).wait_for(state="attached")
    page.select_option("#model", "filler@1")
    image, filled = levels(), hole()
    mask = image_files.png(np.where(filled, np.uint8(255), np.uint8(0))[..., None])
    for field, data in (("#give-vector input[name=mask]", mask), ("#image-file", None)):
        content = image_files.png(image) if data is None else data
        file = {"name": "a.png", "mimeType": "image/png", "buffer": content}
        page.set_input_files(field, file)
    page.locator("#grid img").first.wait_for()
    assert "-F mask=@mask.png" in page.inner_text("#curl")
    source = page.locator("#grid img").first.get_attribute("src")
    data = (
        page.evaluate(
            "async (url) => [...new Uint8Array(await (await fetch(url)).arrayBuffer())]", source
        )
        if source.startswith("blob:")
        else list(base64.b64decode(source.partition(",")[2]))
    )
    made = np.asarray(Image.open(io.BytesIO(bytes(data))))
    np.testing.assert_array_equal(made[~filled], image[~filled])
    page.close()
