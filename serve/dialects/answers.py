"""Outputs of a lane -> the answers of the native dialect, in every format."""

import base64
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
import orjson

from aigc.artifact import TensorSpec, codecs
from serve.ask import Ask
from serve.batching import Arrays
from serve.dialects import sounds, texts
from serve.http import NO_STORE, Headers, HTTPError, Response, json_response
from serve.lane import PIXELS, SignatureLane

Format = Literal["png", "grid", "wav", "flac", "npy", "json", "ndjson", "txt"]

NDJSON = b"application/x-ndjson"

_NEEDS: dict[Format, tuple[str, str]] = {
    "png": ("image", "an image"),
    "grid": ("image", "an image"),
    "wav": ("audio", "a sound"),
    "flac": ("audio", "a sound"),
    "txt": ("text", "a text"),
}
"""Format -> the kind of output that it holds."""
_CODES = {"image": "format_needs_image", "audio": "format_needs_sound", "text": "format_needs_text"}
_OF_ONE = ("png", "wav", "flac")


class Sample(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One sample."""

    index: int
    label: int | None = None
    """Its class, asked for or drawn; absent for models without classes."""
    image: str | None = None
    """base64 of a PNG that carries its provenance."""
    audio: str | None = None
    """base64 of a WAV that carries its provenance."""
    text: str | None = None
    outputs: dict[str, Any] | None = None
    """Numbers by output: what is no image, sound or text."""


def chosen_outputs(lane: SignatureLane, names: Sequence[str] | None) -> tuple[TensorSpec, ...]:
    """The outputs of a lane by name or kind; all where none are named. Raises HTTPError 400."""
    outputs = lane.spec.outputs
    if names is None:
        return outputs
    known = {word for out in outputs for word in (out.name, out.kind)}
    if not names or not known.issuperset(names):
        wrong = next((name for name in names if name not in known), "nothing")
        message = f"outputs must be among {', '.join(sorted(known))}, got {wrong[:60]!r}"
        raise HTTPError(400, "unknown_output", message, param="outputs")
    return tuple(out for out in outputs if out.name in names or out.kind in names)


def wanted(lane: SignatureLane, names: Sequence[str] | None, outputs: Arrays) -> Arrays:
    """Those of a lane's outputs that were asked for."""
    if names is None:
        return outputs
    chosen = {out.name for out in chosen_outputs(lane, names)}
    if lane.image is not None and lane.image.name in chosen:
        chosen.add(PIXELS)
    return {name: values for name, values in outputs.items() if name in chosen}


def check_format(form: Format, ask: Ask, outputs: Sequence[TensorSpec]) -> None:
    """Raise HTTPError 400 unless the outputs of so many samples can be sent so."""
    if form in _OF_ONE and ask.n != 1:
        what = "image" if form == "png" else "sound"
        grid = "grid for one picture of all, or " if form == "png" else ""
        message = (
            f"format {form} holds one {what}, so n must be 1, got {ask.n}; take {grid}json for a"
            " file per sample"
        )
        raise HTTPError(400, "format_needs_one_sample", message, param="format")
    kind, what = _NEEDS.get(form, ("", ""))
    has = [ask.lane.image] if kind == "image" else [out for out in outputs if out.kind == kind]
    if kind and not any(out in outputs for out in has):
        message = (
            f"format {form} holds {what}, signature {ask.lane.name!r} of {ask.lane.artifact.id}"
            f" gives no {what.split()[1]}; take json or npy"
        )
        raise HTTPError(400, _CODES[kind], message, param="format")


def encode(ask: Ask, form: Format, outputs: Arrays, headers: Headers) -> Response:
    """Outputs of a lane -> the answer in the format asked for."""
    headers = [*headers, NO_STORE]
    if form == "npy":
        array = outputs[PIXELS] if PIXELS in outputs else next(iter(outputs.values()))
        return Response(codecs.npy(array), b"application/octet-stream", headers=headers)
    if form == "txt":
        return texts.lines(texts.of_ask(ask, outputs), headers)
    if form == "png":
        data = codecs.png(outputs[PIXELS][0], ask.provenance(0))
        return Response(data, b"image/png", headers=headers)
    if form == "grid":
        data = codecs.png(codecs.grid(outputs[PIXELS]), ask.of_grid())
        return Response(data, b"image/png", headers=headers)
    if form in ("wav", "flac"):
        spec = sounds.sound_of(ask.lane)
        assert spec is not None
        clip = sounds.clips(spec, outputs)[0]
        data = sounds.file(form, clip, spec.sample_rate_hz, ask.provenance(0))
        return Response(data, sounds.MEDIA_TYPES[form], headers=headers)
    if form == "ndjson":
        return Response(encode_lines(ask, outputs), NDJSON, headers=headers)
    return json_response(_document(ask, outputs), headers)


def encode_lines(ask: Ask, outputs: Arrays) -> bytes:
    """Outputs of a lane -> a line of JSON per sample, as they are in SampleResponse."""
    return b"".join(
        orjson.dumps(sample, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)
        for sample in _samples(ask, outputs)
    )


def _samples(ask: Ask, outputs: Arrays) -> Iterator[dict[str, Any]]:
    """The fields of each Sample, its numbers still numpy arrays."""
    labels = ask.labels()
    sound, text = sounds.sound_of(ask.lane), texts.text_of(ask.lane)
    waves = sounds.clips(sound, outputs) if sound and sound.name in outputs else None
    written = texts.of_ask(ask, outputs) if text and text.name in outputs else None
    shown = {PIXELS, *(spec.name for spec in (sound, text) if spec is not None)}
    numbers = {name: values for name, values in outputs.items() if name not in shown}
    for position, index in enumerate(ask.indices):
        sample: dict[str, Any] = {"index": index}
        if labels is not None:
            sample["label"] = labels[position]
        if PIXELS in outputs:
            data = codecs.png(outputs[PIXELS][position], ask.provenance(position))
            sample["image"] = base64.b64encode(data).decode()
        if sound is not None and waves is not None:
            made_by = ask.provenance(position)
            data = sounds.file("wav", waves[position], sound.sample_rate_hz, made_by)
            sample["audio"] = base64.b64encode(data).decode()
        if written is not None:
            sample["text"] = written[position]
        if numbers:
            sample["outputs"] = {k: np.ascontiguousarray(v[position]) for k, v in numbers.items()}
        yield sample


def _document(ask: Ask, outputs: Arrays) -> dict[str, Any]:
    """The body of SampleResponse, its numbers still numpy arrays."""
    lane = ask.lane
    return {
        "model": lane.artifact.id,
        "digest": lane.artifact.manifest.digest,
        "signature": ask.signature,
        "seed": ask.seed if ask.seeded else None,
        "reproducibility": lane.level,
        "samples": list(_samples(ask, outputs)),
        **({"settings": settings} if (settings := ask.all_settings()) else {}),
    }
