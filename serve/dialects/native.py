"""The native dialect: models, their signatures, and samples of a seed.

    POST /v1/samples {"model": "digits", "n": 8, "seed": 7, "label": 3, "format": "json"}

Sample `index` of `seed` is the same alone, in a batch and on every replica, up to the
reproducibility level that the answer states.
"""

import asyncio
import base64
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from itertools import zip_longest
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import orjson
from msgspec import Meta

from aigc.artifact import codecs
from aigc.artifact.manifest import Reproducibility, Signature
from serve.ask import Ask
from serve.batching import Arrays
from serve.call import Call
from serve.dialects import texts
from serve.hosting import PIXELS, Hosted
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

Format = Literal["png", "grid", "npy", "json", "ndjson", "txt"]

API = "native"


class SampleRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which samples, of which model, and how to send them."""

    model: Annotated[str, Meta(description="`name` (its newest version here) or `name@version`.")]
    signature: Annotated[
        str, Meta(description="One that needs nothing but a seed and a label.")
    ] = "sample"
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
    settings: Annotated[
        dict[str, float] | None,
        Meta(description="What the signature lets a caller choose, by name: see /v1/models."),
    ] = None
    stop: Annotated[
        str | list[str] | None,
        Meta(description="Up to 4 strings: a text ends before the first that appears in it."),
    ] = None
    inputs: Annotated[
        dict[str, list[str]] | None,
        Meta(
            description="Texts by the name of the input, for a signature that is run on them, such"
            " as encode; reconstruct is there for all that have encode and decode."
        ),
    ] = None
    format: Annotated[
        Format,
        Meta(
            description="json: every sample, images as base64 PNG. txt: a line per text, which is"
            " also what Accept: text/plain means. png: one image, n must be 1."
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
    text: str | None = None
    outputs: dict[str, Any] | None = None
    """Numbers by output, for signatures that give nothing else."""


class SampleResponse(msgspec.Struct, kw_only=True):
    """Samples first_index .. first_index + n - 1 of a seed, in order."""

    model: str
    """`name@version`."""
    digest: str
    signature: str
    seed: int | None
    """null where inputs were given."""
    reproducibility: str
    """bit, uint8 or tolerance, as measured by the replica that answered."""
    samples: list[Sample]
    settings: dict[str, float] | None = None
    """All of the signature, asked for or not; absent where it has none."""


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
            request = decode(self._decoder, body, "/v1/samples")
            form = request.format
            if form == "json" and texts.wants_lines(scope["headers"]):
                form = "txt"
            if request.inputs is not None:
                return await self._of_inputs(request, request.inputs, form, call)
            ask = self.check(request, form, call.seed(request.seed))
            call.metrics = ask.lane.metrics
            if form == "ndjson":
                await self._sampler.pay(ask.n, ask.lane, call)
                lines = self._lines(ask, call)
                # Made before the status is sent, so that a full queue still is a 503.
                first = await anext(lines)
                headers = [*self._sampler.signed(ask), NO_STORE]
                return Stream(first, b"application/x-ndjson", headers=headers, chunks=lines)
            outputs = await self._sampler.run(ask, call)
            answer = partial(encode, ask, form, outputs, self._sampler.signed(ask))
            values = ask.n * ask.lane.values_per_sample
            inline = COPY_INLINE_VALUES if form == "npy" else ENCODE_INLINE_VALUES
            return await self._sampler.encoded(values, answer, inline)

        return await self._sampler.counted(API, scope["headers"], work)

    async def _lines(self, ask: Ask, call: Call) -> AsyncGenerator[bytes, None]:
        """The samples as lines of JSON, a batch at a time. Raises HTTPError 503."""
        parts = list(ask.parts(ask.lane.max_batch))
        running = asyncio.create_task(self._sampler.run(parts[0], call))
        try:
            for part, following in zip_longest(parts, parts[1:]):
                outputs = await running
                if following is not None:  # it runs while this one is encoded and sent
                    running = asyncio.create_task(self._sampler.run(following, call))
                values = part.n * part.lane.values_per_sample
                yield await self._sampler.encoded(values, partial(encode_lines, part, outputs))
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def _of_inputs(
        self, request: SampleRequest, inputs: dict[str, list[str]], form: Format, call: Call
    ) -> Response:
        """What a signature makes of texts. Raises HTTPError 400, 404, 429 or 503."""
        if request.seed is not None:
            message = "seed has no effect: all that is to be run on is given by inputs"
            raise HTTPError(400, "no_effect", message, param="seed")
        given = texts.given(inputs, request)
        found = await texts.run(self._sampler, request.model, request.signature, given, call)
        headers = [*self._sampler.model_headers(found.lane), NO_STORE]
        if form == "txt":
            return texts.lines(found.texts(), headers)
        if form != "json":
            message = f"what is made of inputs is sent as json or txt, not {form}"
            raise HTTPError(400, "format_needs_seed", message, param="format")
        return json_response(found.document(request.signature), headers)

    def check(self, request: SampleRequest, form: Format, seed: int | None) -> Ask:
        """Raise HTTPError 400 or 404 with a stable code, or return what is to be done."""
        ask = self._sampler.ask(
            model=request.model,
            signature=request.signature,
            n=request.n,
            seed=seed,
            first_index=request.first_index,
            label=request.label,
            settings=request.settings,
        )
        if request.stop is not None:
            ask = replace(ask, until=texts.check_stop(request.stop, ask.lane))
        if form == "txt" and texts.text_of(ask.lane) is None:
            message = f"signature {ask.lane.name!r} of {ask.lane.artifact.id} gives no text"
            raise HTTPError(400, "format_needs_text", message, param="format")
        if form == "png" and request.n != 1:
            raise HTTPError(
                400,
                "format_needs_one_sample",
                f"format png holds one image, so n must be 1, got {request.n}; take grid for one"
                " picture of all, or json for one PNG per sample",
                param="format",
            )
        if form in ("png", "grid") and ask.lane.image is None:
            raise HTTPError(
                400,
                "format_needs_image",
                f"signature {ask.lane.name!r} of {ask.lane.artifact.id} gives no image; take json"
                " or npy",
                param="format",
            )
        return ask


def encode(ask: Ask, form: Format, outputs: Arrays, headers: Headers) -> Response:
    """Outputs of a lane -> the answer in the format asked for."""
    headers = [*headers, NO_STORE]
    if form == "npy":
        array = outputs[PIXELS] if ask.lane.image is not None else next(iter(outputs.values()))
        return Response(codecs.npy(array), b"application/octet-stream", headers=headers)
    if form == "txt":
        return texts.lines(texts.of_ask(ask, outputs), headers)
    if form == "png":
        data = codecs.png(outputs[PIXELS][0], ask.provenance(0))
        return Response(data, b"image/png", headers=headers)
    if form == "grid":
        data = codecs.png(codecs.grid(outputs[PIXELS]), ask.of_grid())
        return Response(data, b"image/png", headers=headers)
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
    written = texts.of_ask(ask, outputs) if texts.text_of(lane) is not None else None
    for position, index in enumerate(ask.indices):
        sample: dict[str, Any] = {"index": index}
        if labels is not None:
            sample["label"] = labels[position]
        if lane.image is not None:
            data = codecs.png(outputs[PIXELS][position], ask.provenance(position))
            sample["image"] = base64.b64encode(data).decode()
        elif written is not None:
            sample["text"] = written[position]
        else:
            sample["outputs"] = {k: np.ascontiguousarray(v[position]) for k, v in outputs.items()}
        yield sample


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
        **({"settings": settings} if (settings := ask.all_settings()) else {}),
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
