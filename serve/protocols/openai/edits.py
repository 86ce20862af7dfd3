"""OpenAI's edits of images, for the unmodified `openai` SDK: images made of images.

    client.images.edit(model="inpainter", image=open("dog.png", "rb"), mask=open("mask.png", "rb"),
                       prompt="")

As in OpenAI's API, fully transparent pixels of the mask are those to fill; without a mask those of
the image. It goes to the model's input `mask`, 1 where it is to be filled. A model without that
input, such as an upscaler or a denoiser, takes the image alone. No model here reads a prompt.
"""

import base64
from functools import partial
from typing import Annotated, Any

import msgspec
import numpy as np
from PIL import Image

from aigc.artifact import image_files, picture
from aigc.artifact.axes import SizeError, solved
from aigc.artifact.preprocessing import LEGACY_IMAGE, ImagePreprocessing
from aigc.artifact.sampling_inputs import channels, is_picture
from aigc.artifact.user_inputs import MAX_PIXELS
from serve import whole_numbers
from serve.errors import HTTPError
from serve.hosting.runner import SignatureRunner
from serve.http import Response, Route, Scope
from serve.operation import BINARY, SAMPLE_HEADERS, SAMPLING_ERRORS, Operation
from serve.protocols.endpoint import endpoint
from serve.protocols.fields import field, seed_field
from serve.protocols.native.request_inputs import (
    MULTIPART,
    check_inputs,
    decode_form,
    read_inputs,
    transform,
)
from serve.protocols.openai import images
from serve.request_body import malformed
from serve.request_context import RequestContext
from serve.sampler import Sampler

EDITS = "/v1/images/edits"
MASK = "mask"


class EditRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """OpenAI's form for edits; further fields go into the SDK's extra_body."""

    model: Annotated[str, field("`name` (its newest version here) or `name@version`.")]
    image: Annotated[str, field("The image, a PNG, WebP or JPEG.")]
    prompt: Annotated[str, field("Empty, or the model's name: no model here reads one.")] = ""
    mask: Annotated[
        str | None,
        field("PNG or WebP of the image's size, transparent where it is to be filled."),
    ] = None
    n: Annotated[int | None, field("1: an image is made one way.", enum=[1, None])] = 1
    size: Annotated[str | None, field("The size follows from the image.", enum=["auto", None])] = (
        "auto"
    )
    response_format: Annotated[str | None, field("b64_json.")] = None
    output_format: Annotated[str | None, field("png, webp or jpeg.")] = None
    output_compression: Annotated[
        int | None, field("Quality of jpeg and webp.", minimum=0, maximum=100)
    ] = None
    quality: Annotated[str | None, field("auto or standard.")] = None
    background: Annotated[str | None, field("auto or opaque.")] = None
    input_fidelity: Annotated[str | None, field("Accepted and ignored.")] = None
    moderation: Annotated[str | None, field("auto: nothing is filtered.")] = None
    stream: Annotated[str | None, field("false: images are not streamed.")] = None
    partial_images: Annotated[int | None, field("0: images are not streamed.")] = None
    user: Annotated[str | None, field("Accepted and ignored.")] = None
    seed: Annotated[int | None, seed_field("Seed of models that draw from one beside it.")] = None
    signature: Annotated[
        str | None, field("A signature that makes an image of one; by default the first.")
    ] = None


EDIT_IMAGE = Operation(
    id="editImage",
    summary="Make an image of an image, for the openai SDK",
    tag="openai",
    request={
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["model", "image"],
                "properties": {
                    "model": {"type": "string"},
                    "image": BINARY["schema"],
                    "mask": BINARY["schema"],
                    "prompt": {"type": "string"},
                    "output_format": {"type": "string", "enum": ["png", "webp", "jpeg"]},
                    "signature": {"type": "string"},
                },
            }
        }
    },
    response={"application/json": images.ImageResponse},
    description="The image.",
    headers=SAMPLE_HEADERS,
    errors=SAMPLING_ERRORS,
)


class EditsApi:
    """OpenAI's endpoint for edits in one replica."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def routes(self) -> tuple[Route, ...]:
        """Routes for `serve.http.Application`."""
        edits = endpoint(self._sampler, images.API, _decode, self._respond)
        return (Route("POST", EDITS, edits, EDIT_IMAGE),)

    async def _respond(
        self, request: EditRequest, scope: Scope, context: RequestContext
    ) -> Response:
        sampler = self._sampler
        runner = self._runner(request)
        _check(request, runner)
        sampling = sampler.build_request(
            runner, n=1, seed=context.seed(request.seed), has_inputs=True
        )
        names = [spec.name for spec in runner.spec.given]
        check_inputs(sampling, names, request.seed is not None)
        context.metrics = runner.metrics
        inputs: dict[str, Any] = {names[0]: request.image}
        if MASK in names[1:]:

            def reading() -> str:
                context.access.keep()  # reading is work, even of a malformed file
                return _holes(request, runner)

            inputs[MASK] = await sampler.read(1, runner, context, MAX_PIXELS, reading)
        parts = await read_inputs(sampler, sampling, inputs, context)
        ((sampling, outputs),) = await transform(sampler, parts, context)
        drawn = images.ImageRequest(
            model=request.model,
            prompt="",
            output_format=request.output_format,
            output_compression=request.output_compression,
        )
        headers = sampler.provenance_headers(sampling)
        encoding = partial(images.encode, drawn, sampling, outputs, headers)
        return await sampler.encode(context, sampling.runner.values_per_sample, encoding)

    def _runner(self, request: EditRequest) -> SignatureRunner:
        """The signature that was named, else the first that fits. Raises HTTPError 400 or 404."""
        hosted = self._sampler.find(request.model)
        manifest = hosted.artifact.manifest
        fitting = [name for name in manifest.offered if _edits(manifest.signatures[name])]
        name = request.signature or next(iter(fitting), "")
        if not fitting:
            message = f"{manifest.id} makes no image of an image; see /v1/models"
            raise HTTPError(400, "model_gives_no_image", message, param="model")
        if name not in fitting:
            message = (
                f"signature {name[:60]!r} of {manifest.id} makes no image of an image, these do:"
                f" {', '.join(fitting)}"
            )
            raise HTTPError(400, "unsupported_value", message, param="signature")
        return self._sampler.runner(request.model, name)


def _edits(signature: Any) -> bool:
    """True if a signature makes one picture of an image, or of an image and a mask."""
    given = signature.given
    return (
        bool(given)
        and is_picture(signature.outputs[0])
        and given[0].kind == "image"
        and [(spec.name, spec.kind, spec.shape[0]) for spec in given[1:]]
        in ([], [(MASK, "image", 1)])
        and signature.label is None
        and not signature.optional
    )


def _check(request: EditRequest, runner: SignatureRunner) -> None:
    """Raise HTTPError 400 for values that no model here takes."""
    known = ("", runner.artifact.manifest.name, runner.artifact.id)
    if request.prompt.strip() not in known:
        message = f"prompt must be empty or the model's name: {runner.artifact.id} reads none"
        raise HTTPError(400, "unsupported_value", message, param="prompt")
    for name, allowed, reason in (
        ("n", 1, f"{runner.artifact.id} makes one image of an image"),
        ("size", "auto", f"{runner.artifact.id} makes one image of an image"),
        ("stream", "false", "images are not streamed"),
        ("partial_images", 0, "images are not streamed"),
    ):
        value = getattr(request, name)
        if value not in (None, allowed):
            message = f"{name} must be {allowed}: {reason}, got {value!r:.60}"
            raise HTTPError(400, "unsupported_value", message, param=name)
    if request.mask is not None and len(runner.spec.given) < 2:
        message = f"mask has no effect: {runner.artifact.id} takes the image alone; leave it out"
        raise HTTPError(400, "no_effect", message, param=MASK)
    images.check_values(request, runner)


def _holes(request: EditRequest, runner: SignatureRunner) -> str:
    """The mask of a model as base64 of a grey PNG, white where it is to be filled.

    Decodes files, so it belongs in a thread. Raises HTTPError 400.
    """
    spec = runner.spec.given[0]
    reading = spec.preprocessing or LEGACY_IMAGE
    turned = isinstance(reading, ImagePreprocessing) and reading.orientation == "exif"
    opened = _opened("image", request.image, turned)
    width, height = opened.size
    try:
        solved(runner.spec.reach, spec.shape, (channels(spec), height, width))
    except SizeError as error:
        message = f"image of {width} x {height} pixels: {error}; the mask, too"
        raise HTTPError(400, "malformed_input", message, param="image") from None
    if request.mask is not None:
        opened = _opened(MASK, request.mask, turned)
    if opened.size != (width, height):
        message = f"mask must be of the image's {width} x {height}, it is {opened.size[0]} x"
        raise HTTPError(400, "malformed_input", f"{message} {opened.size[1]}", param=MASK)
    if not opened.has_transparency_data:
        message = "mask must be a PNG or WebP with transparency: its transparent pixels are filled"
        raise HTTPError(400, "malformed_input", message, param=MASK)
    alpha = np.asarray(opened.convert("RGBA").getchannel("A"))
    filled = np.where(alpha == 0, np.uint8(255), np.uint8(0))[:, :, None]
    return base64.b64encode(image_files.png(filled)).decode()


def _opened(name: str, value: str, turned: bool) -> Image.Image:
    """A decoded file, rotated as EXIF says if `turned`. Raises HTTPError 400."""
    try:
        data = base64.b64decode(value, validate=True)
        with image_files.decoding(data, picture.FORMATS):
            image = image_files.opened(data, picture.FORMATS, MAX_PIXELS)
            image.load()
            return picture.upright(image) if turned else image
    except ValueError as error:
        message = f"image {name!r} cannot be read: {error}"
        raise HTTPError(400, "malformed_input", message, param=name) from None


def _decode(scope: Scope, body: bytes) -> EditRequest:
    """A form. Raises HTTPError 400 or 415."""
    kind = next((v for k, v in scope["headers"] if k == b"content-type"), b"")
    if kind.partition(b";")[0].strip().lower() != MULTIPART:
        message = f"{EDITS} takes a form: multipart/form-data with the image as a file"
        raise HTTPError(415, "content_type", message)
    files = ("image", "image[]", MASK)
    names = tuple(name for name in EditRequest.__struct_fields__ if name not in files)
    document = decode_form(body, kind, names)
    given = document.pop("inputs", {})
    if {"image", "image[]"} <= given.keys():
        raise malformed("the form has image and image[]: one image is edited")
    if "image[]" in given:  # the SDK's name for an image in a list
        given["image"] = given.pop("image[]")
    try:
        return whole_numbers.decode_form({**document, **given}, EditRequest)
    except msgspec.ValidationError as error:
        raise malformed(f"the form is not what {EDITS} takes: {error}") from None
