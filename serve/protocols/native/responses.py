"""Outputs of a runner -> responses of the native protocol, in every format."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
import orjson

from aigc.artifact import TensorSpec, image_files
from aigc.artifact.sampling_inputs import Arrays
from serve.errors import Code, HTTPError
from serve.hosting.runner import PIXELS, SignatureRunner
from serve.http import NO_STORE, Headers, Response, json_response
from serve.protocols import audio_responses, text_codec
from serve.sampling_request import SamplingRequest

Format = Literal["png", "grid", "wav", "flac", "pcm", "npy", "json", "ndjson", "txt"]

NDJSON = b"application/x-ndjson"

_NEEDS: dict[Format, tuple[str, str]] = {
    "png": ("image", "an image"),
    "grid": ("image", "an image"),
    "wav": ("audio", "a sound"),
    "flac": ("audio", "a sound"),
    "pcm": ("audio", "a sound"),
    "txt": ("text", "a text"),
}
"""Format -> kind of the output that it holds, and the kind in words."""
_CODES: Mapping[str, Code] = {
    "image": "format_needs_image",
    "audio": "format_needs_sound",
    "text": "format_needs_text",
}
_SINGLE_SAMPLE = ("png", "wav", "flac", "pcm")


class Sample(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One sample."""

    index: int
    label: int | None = None
    """Its class, requested or drawn; absent for models without classes."""
    image: str | None = None
    """base64 of a PNG with its provenance inside."""
    audio: str | None = None
    """base64 of a WAV with its provenance inside."""
    text: str | None = None
    outputs: dict[str, Any] | None = None
    """Numeric outputs by name."""


def chosen_outputs(runner: SignatureRunner, names: Sequence[str] | None) -> tuple[TensorSpec, ...]:
    """Output specs of these names or kinds; all if `names` is None. Raises HTTPError 400."""
    outputs = runner.spec.outputs
    if names is None:
        return outputs
    known = {word for out in outputs for word in (out.name, out.kind)}
    if not names or not known.issuperset(names):
        wrong = next((name for name in names if name not in known), "nothing")
        message = f"outputs must be among {', '.join(sorted(known))}, got {wrong[:60]!r}"
        raise HTTPError(400, "unknown_output", message, param="outputs")
    return tuple(out for out in outputs if out.name in names or out.kind in names)


def select_outputs(runner: SignatureRunner, names: Sequence[str] | None, outputs: Arrays) -> Arrays:
    """The outputs of these names or kinds; all if `names` is None."""
    if names is None:
        return outputs
    chosen = {out.name for out in chosen_outputs(runner, names)}
    if runner.image is not None and runner.image.name in chosen:
        chosen.add(PIXELS)
    return {name: values for name, values in outputs.items() if name in chosen}


def check_format(
    format_name: Format, request: SamplingRequest, outputs: Sequence[TensorSpec]
) -> None:
    """Raise HTTPError 400 unless the format holds these outputs of n samples."""
    if format_name in _SINGLE_SAMPLE and request.n != 1:
        what = "image" if format_name == "png" else "sound"
        grid = "grid for one picture of all, or " if format_name == "png" else ""
        message = (
            f"format {format_name} holds one {what}, so n must be 1, got {request.n};"
            f" take {grid}json for a file per sample"
        )
        raise HTTPError(400, "format_needs_one_sample", message, param="format")
    kind, what = _NEEDS.get(format_name, ("", ""))
    has = (
        [request.runner.image] if kind == "image" else [out for out in outputs if out.kind == kind]
    )
    if kind and not any(out in outputs for out in has):
        runner = request.runner
        gives = f"signature {runner.name!r} of {runner.artifact.id} gives no {what.split()[1]}"
        if kind == "image" and runner.image is None:
            gives = runner.no_image
        message = f"format {format_name} holds {what}, {gives}; take json or npy"
        raise HTTPError(400, _CODES[kind], message, param="format")


def encode(
    request: SamplingRequest, format_name: Format, outputs: Arrays, headers: Headers
) -> Response:
    """Outputs -> the response in the requested format."""
    headers = [*headers, NO_STORE]
    if format_name == "npy":
        array = outputs[PIXELS] if PIXELS in outputs else next(iter(outputs.values()))
        return Response(image_files.npy(array), b"application/octet-stream", headers=headers)
    if format_name == "txt":
        return text_codec.lines(text_codec.response_texts(request, outputs), headers)
    if format_name == "png":
        data = image_files.png(outputs[PIXELS][0], request.provenance(0))
        return Response(data, b"image/png", headers=headers)
    if format_name == "grid":
        data = image_files.png(image_files.grid(outputs[PIXELS]), request.of_grid())
        return Response(data, b"image/png", headers=headers)
    if format_name in ("wav", "flac", "pcm"):
        spec = audio_responses.audio_output(request.runner)
        assert spec is not None
        clip = audio_responses.clips(spec, outputs)[0]
        data = audio_responses.file(format_name, clip, spec.sample_rate_hz, request.provenance(0))
        return Response(data, audio_responses.MEDIA_TYPES[format_name], headers=headers)
    if format_name == "ndjson":
        return Response(encode_lines(request, outputs), NDJSON, headers=headers)
    return json_response(_document(request, outputs), headers)


def encode_parts(
    parts: Sequence[tuple[SamplingRequest, Arrays]], format_name: Format, headers: Headers
) -> Response:
    """Outputs of consecutive parts, each of samples of one size -> one response, json or ndjson."""
    headers = [*headers, NO_STORE]
    if format_name == "ndjson":
        lines = b"".join(encode_lines(request, outputs) for request, outputs in parts)
        return Response(lines, NDJSON, headers=headers)
    document = _document(*parts[0])
    for request, outputs in parts[1:]:
        document["samples"] += _samples(request, outputs)
    document.pop("sizes", None)
    return json_response(document, headers)


def encode_lines(request: SamplingRequest, outputs: Arrays) -> bytes:
    """Outputs -> one line of JSON per sample, as in SampleResponse."""
    return b"".join(
        orjson.dumps(sample, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)
        for sample in _samples(request, outputs)
    )


def _samples(request: SamplingRequest, outputs: Arrays) -> Iterator[dict[str, Any]]:
    """The fields of each Sample; numbers are numpy arrays."""
    labels = request.labels()
    sound, text = (
        audio_responses.audio_output(request.runner),
        text_codec.text_output(request.runner),
    )
    waves = audio_responses.clips(sound, outputs) if sound and sound.name in outputs else None
    texts = text_codec.response_texts(request, outputs) if text and text.name in outputs else None
    shown = {PIXELS, *(spec.name for spec in (sound, text) if spec is not None)}
    numbers = {name: values for name, values in outputs.items() if name not in shown}
    for position, index in enumerate(request.params.indices):
        sample: dict[str, Any] = {"index": index}
        if labels is not None:
            sample["label"] = labels[position]
        if PIXELS in outputs:
            data = image_files.png(outputs[PIXELS][position], request.provenance(position))
            sample["image"] = base64.b64encode(data).decode()
        if sound is not None and waves is not None:
            provenance = request.provenance(position)
            data = audio_responses.file("wav", waves[position], sound.sample_rate_hz, provenance)
            sample["audio"] = base64.b64encode(data).decode()
        if texts is not None:
            sample["text"] = texts[position]
        if numbers:
            sample["outputs"] = {k: np.ascontiguousarray(v[position]) for k, v in numbers.items()}
        yield sample


def _document(request: SamplingRequest, outputs: Arrays) -> dict[str, Any]:
    """The body of SampleResponse; numbers are numpy arrays."""
    runner = request.runner
    return {
        "model": runner.artifact.id,
        "digest": runner.artifact.manifest.digest,
        "signature": request.signature,
        "seed": request.params.seed if request.seeded else None,
        "reproducibility": runner.level,
        "samples": list(_samples(request, outputs)),
        **({"settings": settings} if (settings := request.all_settings()) else {}),
        **({"sizes": dict(sizes)} if (sizes := request.params.sizes) else {}),
    }
