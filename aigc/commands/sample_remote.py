"""Samples of a server, whose answers are not trusted: sizes and types are checked as they come."""

import base64
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
import numpy as np
from numpy.typing import NDArray

from aigc import http_client
from aigc.artifact import audio_files, image_files
from aigc.artifact.manifest import check_name, check_version
from aigc.commands.sample_files import (
    Format,
    Options,
    Samples,
    check_picture,
    joined,
    read_input_file,
    selected,
)

PART = 256
"""Most samples per HTTP request; more are requested in parts."""
SAMPLE_BYTES = 8 << 20
"""Largest size of one sample in an answer."""
MAX_ANSWER_BYTES = 256 << 20
"""Largest size of an answer."""
MAX_CHARACTERS = 1 << 28
"""Most characters of all texts together, each counted as long as the longest."""
MAX_VALUES = 1 << 24
"""Most pixels or sound samples of one sample."""
MAX_TOGETHER = 1 << 32
"""Most pixels or sound samples of all samples of a command."""


class _Tensor(msgspec.Struct):
    """The fields of a tensor in the description of a model."""

    name: str
    kind: str
    shape: tuple[int | str, ...] = ()
    range: tuple[float, float] | None = None
    classes: tuple[str, ...] = ()


class _Signature(msgspec.Struct):
    inputs: list[_Tensor]
    outputs: Annotated[list[_Tensor], msgspec.Meta(min_length=1)]


class _Model(msgspec.Struct):
    id: str
    digest: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    signatures: dict[str, _Signature]


class _ModelName(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_ModelName]


class _Answer(msgspec.Struct):
    digest: str
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None
    samples: list[dict[str, Any]]


def from_server(options: Options) -> Samples:
    """Sample over HTTP, in requests of at most PART samples.

    Raises ValueError with the server's message, or with the fault in its answer.
    """
    url = options.source.rstrip("/")
    name = options.model or _only_model(url)
    model = http_client.request_as(_Model, f"{url}/v1/models/{quote(name, safe='@')}")
    with _answer_checked(url):
        check_name(model.id.partition("@")[0])
        check_version(model.id.partition("@")[2])
    options = replace(options, signature=options.signature or _default(model, options))
    signature = model.signatures.get(options.signature)
    if signature is None:
        raise ValueError(
            f"{model.id} has no signature {options.signature!r}, it has:"
            f" {http_client.quoted(', '.join(model.signatures))}"
        )
    options = options.with_classes(
        next((spec for spec in signature.inputs if spec.kind == "label"), None)
    )
    for spec in signature.outputs:
        if len(spec.shape) == 3:  # the server may claim anything
            check_picture(options, spec.kind, spec.shape)
    kinds = {spec.name: spec.kind for spec in signature.inputs}
    body: dict[str, Any] = {"model": model.id, "signature": options.signature, "format": "json"}
    if options.settings:
        body["settings"] = options.settings
    if options.size:
        body["size"] = options.size
    if options.sizes:
        body["sizes"] = options.sizes
    if options.inputs:
        files = {
            name: read_input_file(kinds.get(name, ""), v) for name, v in options.inputs.items()
        }
        body["inputs"] = {
            name: base64.b64encode(value).decode() if isinstance(value, bytes) else value
            for name, value in files.items()
        }
    seed = options.seed
    records: list[dict[str, Any]] = []
    for start in range(0, options.n, PART):
        n = min(PART, options.n - start)
        part = {**body, "n": n, "first_index": options.first_index + start}
        if seed is not None:
            part["seed"] = seed
        if options.label:
            part["label"] = options.labels(start, start + n)
        max_bytes = min(http_client.MAX_BYTES + n * SAMPLE_BYTES, MAX_ANSWER_BYTES)
        answer = http_client.request_as(_Answer, f"{url}/v1/samples", part, max_bytes=max_bytes)
        with _answer_checked(url):
            _check_answer(answer, model, n, seed)
        records += answer.samples
        seed = answer.seed
    # A server returns no seed if nothing was drawn.
    origin = (model.id, model.digest, 0 if seed is None else seed)
    specs = selected(signature.outputs, options.format)
    with _answer_checked(url):
        parts = (_samples_of(records, spec, origin, options.format) for spec in specs)
        return replace(joined(parts, specs), labels=options.classes)


def _default(model: _Model, options: Options) -> str:
    """The signature that is called if none is named: see Manifest.default_signature()."""
    usual = "translate" if options.inputs else "sample"
    only = len(model.signatures) == 1 and usual not in model.signatures
    return next(iter(model.signatures)) if only else usual


def _check_answer(answer: _Answer, model: _Model, n: int, seed: int | None) -> None:
    """Raise ValueError unless an answer fits its request."""
    if len(answer.samples) != n:
        raise ValueError(f"{len(answer.samples)} samples where {n} were asked for")
    if answer.digest != model.digest:
        raise ValueError(f"samples of another artifact than {model.id} was a moment ago")
    if seed is not None and answer.seed not in (seed, None):
        raise ValueError(f"samples of seed {answer.seed} where {seed} was asked for")


@contextmanager
def _answer_checked(url: str) -> Iterator[None]:
    """Turn any error about the data of a server into one ValueError of one sentence."""
    try:
        yield
    except Exception as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        message = http_client.quoted(what or type(error).__name__)
        raise ValueError(f"{url} answered what cannot be used: {message}") from error


def _samples_of(
    records: list[dict[str, Any]], spec: _Tensor, origin: tuple[str, str, int], form: Format | None
) -> Samples:
    """One output of a signature from a server's answers. Raises any error about them."""
    kind, name = spec.kind, spec.name
    if kind == "text":
        texts = [record["text"] for record in records]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("texts that are no strings")
        if max(map(len, texts)) * len(texts) > MAX_CHARACTERS:
            raise ValueError(f"texts of more than {MAX_CHARACTERS} characters")
        return Samples(*origin, np.array(texts), ())
    if kind == "image" and "image" in records[0]:
        files = [_file(record["image"]) for record in records]
        images = _stacked(image_files.read_image(data, MAX_VALUES)[0] for data in files)
        if any(data[:8] != b"\x89PNG\r\n\x1a\n" for data in files):
            raise ValueError("images that are no PNG")
        return Samples(*origin, images, tuple(files))
    if kind == "audio":
        files = [_file(record["audio"]) for record in records]
        waves = _stacked(audio_files.read_sound(data, MAX_VALUES).samples for data in files)
        if form != "flac":
            if any(data[:4] != b"RIFF" for data in files):
                raise ValueError("sounds that are no WAV")
            return Samples(*origin, waves, tuple(files), "wav")
        read = (audio_files.read_sound(data, MAX_VALUES) for data in files)
        again = (
            audio_files.flac(audio_files.to_pcm16(one.samples), one.rate_hz, one.provenance)
            for one in read
        )
        return Samples(*origin, waves, tuple(again), "flac")
    values = np.array([record["outputs"][name] for record in records], np.float32)
    return Samples(*origin, values, (), "npy" if kind == "image" else "png")


def _file(value: Any) -> bytes:
    if not isinstance(value, str):
        raise ValueError(f"a file of type {type(value).__name__}, not as base64")
    return base64.b64decode(value, validate=True)


def _stacked(arrays: Iterable[NDArray[Any]]) -> NDArray[Any]:
    """Arrays of one shape as one; at most MAX_TOGETHER values, counted as they come."""
    rows: list[NDArray[Any]] = []
    for array in arrays:
        rows.append(array)
        if array.shape != rows[0].shape:
            raise ValueError(f"samples of shapes {rows[0].shape} and {array.shape}")
        if array.size * len(rows) > MAX_TOGETHER:
            raise ValueError(f"more than {MAX_TOGETHER} values; ask for fewer samples")
    return np.stack(rows)


def _only_model(url: str) -> str:
    models = [model.id for model in http_client.request_as(_Models, f"{url}/v1/models").data]
    if len(models) != 1:
        served = http_client.quoted(", ".join(models)) or "nothing"
        raise ValueError(f"{url} serves {served}; choose one with --model")
    return models[0]
