"""The native dialect: models, their signatures, and samples of a seed.

    POST /v1/samples {"model": "digits", "n": 8, "seed": 7, "label": 3, "format": "json"}

Sample `index` of `seed` is the same alone, in a batch and on every replica, up to the
reproducibility level that the answer states.
"""

import base64
import contextlib
from collections.abc import AsyncGenerator, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import orjson
from msgspec import Meta

from aigc.artifact import TensorSpec, codecs
from aigc.artifact.intake import MAX_PIXELS
from aigc.artifact.manifest import Reproducibility, Signature
from aigc.artifact.vocabulary import Vocabulary
from serve.ask import Ask
from serve.batching import Arrays
from serve.call import Call
from serve.dialects import sounds
from serve.dialects.given import MULTIPART, document, with_inputs
from serve.hosting import PIXELS, Hosted, SignatureLane
from serve.http import (
    NO_STORE,
    Endpoints,
    Headers,
    HTTPError,
    Receive,
    Response,
    Scope,
    Stream,
    decode,
    json_response,
)
from serve.sampling import COPY_INLINE_VALUES, ENCODE_INLINE_VALUES, Sampler
from serve.settings import MAX_SEED

Format = Literal["png", "grid", "wav", "flac", "npy", "json", "ndjson"]

API = "native"
NDJSON = b"application/x-ndjson"


class SampleRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which samples, of which model, and how to send them."""

    model: Annotated[str, Meta(description="`name` (its newest version here) or `name@version`.")]
    signature: Annotated[
        str | None,
        Meta(description="`translate` if absent where inputs are given, else `sample`."),
    ] = None
    inputs: Annotated[
        dict[str, str | list[float]] | None,
        Meta(
            description="What to make the samples from, by the signature's inputs: images and"
            " sounds as base64 files, texts, numbers. In a form, its files and further fields."
        ),
    ] = None
    outputs: Annotated[
        list[str] | None,
        Meta(description="image, text, audio, or names of outputs; all if absent."),
    ] = None
    n: Annotated[int, Meta(description="How many samples.", extra_json_schema={"minimum": 1})] = 1
    seed: Annotated[
        int | None,
        Meta(
            description="Names the samples; drawn by the server and returned if absent.",
            extra_json_schema={"minimum": 0, "maximum": MAX_SEED},
        ),
    ] = None
    first_index: Annotated[
        int,
        Meta(
            description="Index of the first sample within the seed.",
            extra_json_schema={"minimum": 0, "maximum": MAX_SEED},
        ),
    ] = 0
    label: Annotated[
        int | list[int] | None,
        Meta(
            description="One class for all samples or a list of n; drawn from the seed if absent."
        ),
    ] = None
    format: Annotated[
        Format,
        Meta(
            description="json: every sample, images as base64 PNG and sounds as base64 WAV. png,"
            " wav, flac: one image or sound, n must be 1."
            " ndjson: a line per sample, sent as soon as it is made; an error after the first line"
            " is the last line. grid: all images in one PNG. npy: (n, height, width, channels)"
            " uint8 for images, else the first output as it is."
        ),
    ] = "json"


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
    """Numbers by output, what is no image, sound or text."""


class SampleResponse(msgspec.Struct, kw_only=True):
    """Samples first_index .. first_index + n - 1 of a seed, in order."""

    model: str
    """`name@version`."""
    digest: str
    signature: str
    seed: int
    reproducibility: str
    """bit, uint8 or tolerance, as measured by the replica that answered."""
    samples: list[Sample]


class ModelSummary(msgspec.Struct, kw_only=True):
    """One hosted version of a model, and OpenAI's model object: id, object, created, owned_by."""

    id: str
    name: str
    version: str
    family: str
    model: str
    preset: str
    digest: str
    created: int
    """Seconds since 1970; 0 if the manifest gives no time that can be read."""
    created_at: str
    """ISO 8601, UTC."""
    licence: str
    signatures: dict[str, Signature]
    reproducibility: dict[str, Reproducibility]
    """By signature, as measured by the replica that answered."""
    metrics: dict[str, float]
    object: Literal["model"] = "model"
    owned_by: Literal["aigc"] = "aigc"


class ModelList(msgspec.Struct, kw_only=True):
    """What is hosted, by name and from the oldest version to the newest."""

    data: list[ModelSummary]
    object: Literal["list"] = "list"


class NativeApi:
    """The endpoints of the native dialect in one replica."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._decoder = msgspec.json.Decoder(SampleRequest)

    def routes(self) -> tuple[dict[str, Endpoints], dict[str, Endpoints]]:
        """Exact paths and prefixes, for `serve.http.Application`."""
        return (
            {"/v1/models": {"GET": self.list_models}, "/v1/samples": {"POST": self.samples}},
            {"/v1/models/": {"GET": self.describe_model}},
        )

    async def list_models(self, scope: Scope, receive: Receive) -> Response:
        self._sampler.admit(scope["headers"])
        models = [summary(hosted) for hosted in self._sampler.hosted().all]
        return json_response(msgspec.to_builtins(ModelList(data=models)))

    async def describe_model(self, scope: Scope, receive: Receive) -> Response:
        self._sampler.admit(scope["headers"])
        reference = scope["path"].removeprefix("/v1/models/")
        return json_response(msgspec.to_builtins(summary(self._sampler.find(reference))))

    async def samples(self, scope: Scope, receive: Receive) -> Response:
        async def work(call: Call) -> Response:
            body = await call.read(scope, receive, self._sampler.limits.max_body_bytes)
            request = self._read(scope, body)
            ask = self.check(request, call.seed(request.seed))
            call.metrics = ask.lane.metrics
            if request.inputs:
                read = partial(with_inputs, ask, request.inputs)
                ask, inputs = await self._sampler.encoded(MAX_PIXELS, read)
                outputs = await self._sampler.infer(ask.lane, inputs, call)
                return await self._answer(ask, request, outputs)
            if request.format == "ndjson":
                await self._sampler.pay(ask.n, ask.lane, call)
                lines = self._lines(ask, request, call)
                # Made before the status is sent, so that a full queue still is a 503.
                first = await anext(lines)
                headers = [*self._sampler.signed(ask), NO_STORE]
                return Stream(first, NDJSON, headers=headers, chunks=lines)
            outputs = await self._sampler.run(ask, call)
            return await self._answer(ask, request, outputs)

        return await self._sampler.counted(API, scope["headers"], work)

    async def _answer(self, ask: Ask, request: SampleRequest, outputs: Arrays) -> Response:
        outputs = wanted(ask.lane, request.outputs, outputs)
        answer = partial(encode, ask, request.format, outputs, self._sampler.signed(ask))
        values = ask.n * ask.lane.values_per_sample
        inline = COPY_INLINE_VALUES if request.format == "npy" else ENCODE_INLINE_VALUES
        return await self._sampler.encoded(values, answer, inline)

    def _read(self, scope: Scope, body: bytes) -> SampleRequest:
        """JSON, or a form. Raises HTTPError 400."""
        kind = next((v for k, v in scope["headers"] if k == b"content-type"), b"")
        if not kind.startswith(MULTIPART):
            return decode(self._decoder, body, "/v1/samples")
        given = document(body, kind, SampleRequest.__struct_fields__)
        try:
            return msgspec.convert(given, SampleRequest, strict=False)
        except msgspec.ValidationError as error:
            message = f"the form is not what /v1/samples takes: {error}"
            raise HTTPError(400, "malformed_body", message) from None

    async def _lines(
        self, ask: Ask, request: SampleRequest, call: Call
    ) -> AsyncGenerator[bytes, None]:
        """The samples as lines of JSON, a batch at a time. Raises HTTPError 503."""
        parts = list(ask.parts(ask.lane.max_batch))
        running = self._sampler.run_parts(parts, call)
        async with contextlib.aclosing(running):
            for part in parts:
                outputs = wanted(part.lane, request.outputs, await anext(running))
                values = part.n * part.lane.values_per_sample
                yield await self._sampler.encoded(values, partial(encode_lines, part, outputs))

    def check(self, request: SampleRequest, seed: int | None) -> Ask:
        """Raise HTTPError 400 or 404 with a stable code, or return what is to be done."""
        ask = self._sampler.ask(
            model=request.model,
            signature=request.signature or ("translate" if request.inputs else "sample"),
            n=request.n,
            seed=seed,
            first_index=request.first_index,
            label=request.label,
            given=bool(request.inputs),
        )
        chosen = chosen_outputs(ask.lane, request.outputs)
        if request.format in ("png", "wav", "flac") and request.n != 1:
            one = "image" if request.format == "png" else "sound"
            grid = "grid for one picture of all, or " if one == "image" else ""
            raise HTTPError(
                400,
                "format_needs_one_sample",
                f"format {request.format} holds one {one}, so n must be 1, got {request.n}; take"
                f" {grid}json for a file per sample",
                param="format",
            )
        if request.format in ("png", "grid") and ask.lane.image not in chosen:
            raise HTTPError(
                400,
                "format_needs_image",
                f"signature {ask.lane.name!r} of {ask.lane.artifact.id} gives no image; take json"
                " or npy",
                param="format",
            )
        if request.format in ("wav", "flac") and sounds.sound_of(ask.lane) not in chosen:
            raise HTTPError(
                400,
                "format_needs_sound",
                f"signature {ask.lane.name!r} of {ask.lane.artifact.id} gives no sound; take json"
                " or npy",
                param="format",
            )
        return ask


def encode(ask: Ask, form: Format, outputs: Arrays, headers: Headers) -> Response:
    """Outputs of a lane -> the answer in the format asked for."""
    headers = [*headers, NO_STORE]
    if form == "npy":
        array = outputs[PIXELS] if PIXELS in outputs else next(iter(outputs.values()))
        return Response(codecs.npy(array), b"application/octet-stream", headers=headers)
    if form == "png":
        data = codecs.png(outputs[PIXELS][0], ask.provenance(0))
        return Response(data, b"image/png", headers=headers)
    if form in ("wav", "flac"):
        spec = sounds.sound_of(ask.lane)
        assert spec is not None
        clip = sounds.clips(spec, outputs)[0]
        data = sounds.file(form, clip, spec.sample_rate_hz, ask.provenance(0))
        return Response(data, sounds.MEDIA_TYPES[form], headers=headers)
    if form == "grid":
        data = codecs.png(codecs.grid(outputs[PIXELS]), ask.of_grid())
        return Response(data, b"image/png", headers=headers)
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
    lane = ask.lane
    labels = ask.labels()
    spec = sounds.sound_of(lane)
    waves = sounds.clips(spec, outputs) if spec is not None and spec.name in outputs else None
    texts = {
        out.name: Vocabulary(out.vocabulary).texts(outputs[out.name])
        for out in lane.spec.outputs
        if out.kind == "text" and out.name in outputs
    }
    shown = {PIXELS, *texts, *((spec.name,) if spec else ())}
    numbers = {name: values for name, values in outputs.items() if name not in shown}
    for position, index in enumerate(ask.indices):
        made_by = ask.provenance(position)
        sample: dict[str, Any] = {"index": index}
        if labels is not None:
            sample["label"] = labels[position]
        if PIXELS in outputs:
            data = codecs.png(outputs[PIXELS][position], made_by)
            sample["image"] = base64.b64encode(data).decode()
        if spec is not None and waves is not None:
            data = sounds.file("wav", waves[position], spec.sample_rate_hz, made_by)
            sample["audio"] = base64.b64encode(data).decode()
        for of_all in texts.values():
            sample["text"] = of_all[position]
        if numbers:
            sample["outputs"] = {k: np.ascontiguousarray(v[position]) for k, v in numbers.items()}
        yield sample


def chosen_outputs(lane: SignatureLane, names: list[str] | None) -> tuple[TensorSpec, ...]:
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


def wanted(lane: SignatureLane, names: list[str] | None, outputs: Arrays) -> Arrays:
    """Those of a lane's outputs that were asked for."""
    if names is None:
        return outputs
    chosen = {out.name for out in chosen_outputs(lane, names)}
    if lane.image is not None and lane.image.name in chosen:
        chosen.add(PIXELS)
    return {name: values for name, values in outputs.items() if name in chosen}


def _document(ask: Ask, outputs: Arrays) -> dict[str, Any]:
    """The body of SampleResponse, its numbers still numpy arrays."""
    lane = ask.lane
    return {
        "model": lane.artifact.id,
        "digest": lane.artifact.manifest.digest,
        "signature": lane.name,
        "seed": ask.seed,
        "reproducibility": lane.level,
        "samples": list(_samples(ask, outputs)),
    }


def summary(hosted: Hosted) -> ModelSummary:
    """What /v1/models tells of an artifact."""
    artifact = hosted.artifact
    manifest = artifact.manifest
    return ModelSummary(
        id=manifest.id,
        name=manifest.name,
        version=manifest.version,
        family=manifest.family,
        model=manifest.model,
        preset=f"{manifest.model}:{manifest.preset}",
        digest=manifest.digest,
        created=_unix_seconds(manifest.created),
        created_at=manifest.created,
        licence=manifest.licence,
        signatures=manifest.signatures,
        reproducibility=artifact.reproducibility,
        metrics=manifest.metrics,
    )


def _unix_seconds(created: str) -> int:
    """A manifest's time, which nothing has checked yet."""
    try:
        moment = datetime.fromisoformat(created)
    except ValueError:
        return 0
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
