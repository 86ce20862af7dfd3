"""The native dialect: models, their signatures, and samples of a seed.

    POST /v1/samples {"model": "digits", "n": 8, "seed": 7, "label": 3, "format": "json"}

Sample `index` of `seed` is the same alone, in a batch and on every replica, up to the
reproducibility level that the answer states.
"""

import contextlib
import dataclasses
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from aigc.artifact.manifest import Reproducibility, Signature
from serve.ask import Ask
from serve.batching import Arrays
from serve.call import Call
from serve.dialects import texts
from serve.dialects.answers import (
    NDJSON,
    Format,
    Sample,
    check_format,
    chosen_outputs,
    encode,
    encode_lines,
    wanted,
)
from serve.dialects.fields import of_seed
from serve.dialects.given import (
    DECODE,
    ENCODE,
    MULTIPART,
    RECONSTRUCT,
    TRANSLATE,
    Inputs,
    check_decoding,
    check_inputs,
    decoded,
    document,
    encoded,
    is_composed,
    made_from,
    num_given,
)
from serve.hosting import Hosted
from serve.http import (
    NO_STORE,
    Endpoints,
    HTTPError,
    Receive,
    Response,
    Scope,
    Stream,
    decode,
    json_response,
)
from serve.sampling import COPY_INLINE_VALUES, ENCODE_INLINE_VALUES, Sampler

API = "native"


class SampleRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which samples, of which model, and how to send them."""

    model: Annotated[str, Meta(description="`name` (its newest version here) or `name@version`.")]
    signature: Annotated[
        str | None,
        Meta(description="`translate` if absent where inputs are given, else `sample`."),
    ] = None
    inputs: Annotated[
        Inputs | None,
        Meta(
            description="What to make the samples from, by the signature's inputs: images and"
            " sounds as base64 files, texts, numbers; one for all samples, or a list of one for"
            " each. In a form, its files and further fields. A model of texts that has encode and"
            " decode can reconstruct, too."
        ),
    ] = None
    outputs: Annotated[
        list[str] | None,
        Meta(description="image, text, audio, or names of outputs; all if absent."),
    ] = None
    n: Annotated[
        int | None,
        Meta(
            description="How many samples; 1 if absent, or as many as inputs are listed.",
            extra_json_schema={"minimum": 1},
        ),
    ] = None
    seed: Annotated[
        int | None,
        of_seed("Names the samples; drawn by the server and returned if absent."),
    ] = None
    first_index: Annotated[
        int,
        of_seed(
            "Index of the first sample within the seed; where nothing is drawn, only a number."
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
        Meta(
            description="What the signature lets a caller choose, by name: see /v1/models. In a"
            " form, one field of JSON."
        ),
    ] = None
    stop: Annotated[
        str | list[str] | None,
        Meta(description="Up to 4 strings: a text ends before the first that appears in it."),
    ] = None
    format: Annotated[
        Format,
        Meta(
            description="json: every sample, images as base64 PNG and sounds as base64 WAV. png,"
            " wav, flac: one image or sound, n must be 1. txt: a line per text, which is also what"
            " Accept: text/plain means."
            " ndjson: a line per sample, sent as soon as it is made; an error after the first line"
            " is the last line. grid: all images in one PNG. npy: (n, height, width, channels)"
            " uint8 for images, else the first output as it is."
        ),
    ] = "json"


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
            request = self._read(scope, body)
            if request.format == "json" and texts.wants_lines(scope["headers"]):
                request = msgspec.structs.replace(request, format="txt")
            if request.inputs is not None:
                return await self._of_inputs(request, request.inputs, call)
            ask = self.check(request, call.seed(request.seed))
            call.metrics = ask.lane.metrics
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

    async def _of_inputs(self, request: SampleRequest, inputs: Inputs, call: Call) -> Response:
        """What a signature makes of what is given. Raises HTTPError 400, 404, 429 or 503."""
        n, signature = num_given(inputs, request.n), request.signature or TRANSLATE
        request = msgspec.structs.replace(request, n=n, signature=signature)
        if is_composed(self._sampler.find(request.model), signature):
            return await self._reconstructed(request, inputs, n, call)
        ask = self.check(request, call.seed(request.seed), True)
        check_inputs(ask, inputs, request.seed is not None)
        call.metrics = ask.lane.metrics
        ask, outputs = await made_from(self._sampler, ask, inputs, call)
        return await self._answer(ask, request, outputs)

    async def _reconstructed(
        self, request: SampleRequest, inputs: Inputs, n: int, call: Call
    ) -> Response:
        """What is encoded and decoded again, by two signatures."""
        encode = self._sampler.ask(
            model=request.model, signature=ENCODE, n=n, label=request.label, given=True
        )
        ask = self.check(msgspec.structs.replace(request, signature=DECODE), None, True)
        check_inputs(encode, inputs, request.seed is not None)
        check_decoding(ask)
        call.metrics = ask.lane.metrics
        encode, codes = await encoded(self._sampler, encode, inputs, call)
        ask, outputs = await decoded(self._sampler, ask, codes, call)
        ask = dataclasses.replace(ask, given=encode.given, composed=RECONSTRUCT)
        return await self._answer(ask, request, outputs)

    def check(self, request: SampleRequest, seed: int | None, given: bool = False) -> Ask:
        """Raise HTTPError 400 or 404 with a stable code, or return what is to be done."""
        ask = self._sampler.ask(
            model=request.model,
            signature=request.signature or "sample",
            n=1 if request.n is None else request.n,
            seed=seed,
            first_index=request.first_index,
            label=request.label,
            settings=request.settings,
            given=given,
        )
        if request.stop is not None:
            ask = dataclasses.replace(ask, until=texts.check_stop(request.stop, ask.lane))
        check_format(request.format, ask, chosen_outputs(ask.lane, request.outputs))
        return ask


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
