"""The native protocol: models, their signatures, and samples of a seed.

    POST /v1/samples {"model": "digits", "n": 8, "seed": 7, "label": 3, "format": "json"}

Sample `index` of `seed` is the same alone, in a batch and on every replica, up to the
reproducibility level in the response.
"""

import contextlib
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Literal

import msgspec

from aigc.artifact.manifest import Reproducibility, Signature
from aigc.artifact.precision import Precision
from aigc.artifact.sampling_inputs import Arrays
from serve import whole_numbers
from serve.errors import HTTPError
from serve.hosting.models import HostedModel, KnownProvider
from serve.http import (
    NO_STORE,
    Receive,
    Response,
    Route,
    Scope,
    Stream,
    json_response,
)
from serve.operation import (
    BINARY,
    SAMPLE_HEADERS,
    SAMPLING_ERRORS,
    TEXT,
    Operation,
    Parameter,
    reference,
)
from serve.protocols import text_codec
from serve.protocols.endpoint import endpoint
from serve.protocols.fields import field, seed_field
from serve.protocols.native.request_inputs import (
    DECODE,
    ENCODE,
    MULTIPART,
    RECONSTRUCT,
    Inputs,
    Part,
    accepted_inputs,
    check_decoding,
    check_inputs,
    decode_form,
    is_composed,
    num_samples,
    read_inputs,
    run_decoder,
    run_encoder,
    transform,
)
from serve.protocols.native.responses import (
    NDJSON,
    Format,
    Sample,
    check_format,
    chosen_outputs,
    encode,
    encode_lines,
    encode_parts,
    select_outputs,
)
from serve.protocols.native.sound_stream import is_streamed, stream_sound
from serve.protocols.sizes import chosen_sizes
from serve.request_body import decode, malformed
from serve.request_context import RequestContext
from serve.sampler import COPY_INLINE_VALUES, ENCODE_INLINE_VALUES, Sampler
from serve.sampling_request import SamplingRequest

API = "native"
SAMPLES = "/v1/samples"


class SampleRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Samples of a model, and the format to send them in."""

    model: Annotated[str, field("`name` (its newest version here) or `name@version`.")]
    signature: Annotated[
        str | None,
        field("If absent, `translate` where there are inputs, else `sample`."),
    ] = None
    inputs: Annotated[
        Inputs | None,
        field(
            "Values of the signature's inputs: images and sounds as base64 files,"
            " texts, numbers; one for all samples, or a list with one per sample. In a form, its"
            " files and all other fields. A model of texts with the signatures encode and decode"
            " also takes the signature reconstruct."
        ),
    ] = None
    outputs: Annotated[
        list[str] | None,
        field("image, text, audio, or names of outputs; by default all."),
    ] = None
    n: Annotated[
        int | None,
        field(
            "Number of samples; if absent 1, or the length of lists of inputs.",
            minimum=1,
        ),
    ] = None
    seed: Annotated[
        int | None,
        seed_field("Seed of the samples; drawn by the server and returned if absent."),
    ] = None
    first_index: Annotated[
        int,
        seed_field("Index of the first sample within the seed; a mere number if nothing is drawn."),
    ] = 0
    label: Annotated[
        int | str | list[int | str] | None,
        field(
            "One class for all samples or a list of n, by number or name; drawn from the seed if"
            " absent. A text that is the name of one class and the number of another is refused:"
            " name:1 is the class called 1, index:1 the one with that number."
        ),
    ] = None
    settings: Annotated[
        dict[str, float] | None,
        field(
            "Settings of the signature by name, see /v1/models; others have their"
            " defaults. In a form, one field of JSON."
        ),
    ] = None
    size: Annotated[
        str | None,
        field("WIDTHxHEIGHT of images with free sizes; the default of the signature if absent."),
    ] = None
    sizes: Annotated[
        dict[str, int] | None,
        field(
            "Sizes of the signature's free axes by name, see /v1/models; others have their"
            " defaults, given inputs their own. In a form, one field of JSON."
        ),
    ] = None
    stop: Annotated[
        str | list[str] | None,
        field("Up to 4 strings: a text ends before the first that appears in it."),
    ] = None
    format: Annotated[
        Format,
        field(
            "json: all samples, images as base64 PNG and sounds as base64 WAV. png,"
            " wav, flac, pcm (16 bits, little-endian, no header): one image or sound, n must be 1;"
            " wav and pcm of a sound made of chunks are sent as they are made. txt: one line per"
            " text; Accept: text/plain selects it, too. ndjson: one line per sample, sent as soon"
            " as it is generated; an error after the first line is the last line. grid: all images"
            " in one PNG. npy: (n, height, width, channels) uint8 for images, else the first output"
            " as it is."
        ),
    ] = "json"


class SampleResponse(msgspec.Struct, kw_only=True):
    """Samples first_index .. first_index + n - 1 of a seed, in order."""

    model: str
    """`name@version`."""
    digest: str
    signature: str
    seed: int | None
    """null if nothing was drawn."""
    reproducibility: str
    """bit, uint8 or tolerance, as measured by the replica that responded."""
    samples: list[Sample]
    settings: dict[str, float] | None = None
    """All settings of the signature, defaults included; absent if it has none."""
    sizes: dict[str, int] | None = None
    """Sizes of all free axes, defaults included; absent if there are none, or if inputs had several
    sizes."""


class ModelSummary(msgspec.Struct, kw_only=True):
    """A hosted version of a model; id, object, created and owned_by are OpenAI's model object."""

    id: str
    name: str
    version: str
    family: str
    model: str
    preset: str
    digest: str
    created: int
    """Seconds since 1970; 0 if the manifest's time is malformed."""
    created_at: str
    """ISO 8601, UTC."""
    licence: str
    signatures: dict[str, Signature]
    reproducibility: dict[str, Reproducibility]
    """By signature, as measured by the replica that responded."""
    provider: KnownProvider
    """Execution provider that runs it, as the last replica that answered reported it; unknown in
    another pool of provider auto, until one has started."""
    metrics: dict[str, float]
    precision: Precision | msgspec.UnsetType = msgspec.UNSET
    """Precision of graphs below float32, and its cost; absent for float32."""
    object: Literal["model"] = "model"
    owned_by: Literal["aigc"] = "aigc"


class ModelList(msgspec.Struct, kw_only=True):
    """The hosted models, by name and from the oldest version to the newest."""

    data: list[ModelSummary]
    object: Literal["list"] = "list"


LIST_MODELS = Operation(
    id="listModels",
    summary="List the hosted models",
    tag="models",
    response={"application/json": ModelList},
    errors=(500, 503),
)
GET_MODEL = Operation(
    id="getModel",
    summary="Describe one model",
    tag="models",
    parameters=(
        Parameter(
            name="id",
            description="`name` (its newest version here) or `name@version`.",
            example=lambda model: model.id,
        ),
    ),
    response={"application/json": ModelSummary},
    errors=(404, 500, 503),
)
CREATE_SAMPLES = Operation(
    id="createSamples",
    summary="Draw samples of a seed",
    tag="samples",
    request={
        "application/json": SampleRequest,
        "multipart/form-data": {
            "schema": reference(SampleRequest),
            "encoding": {"settings": {"contentType": "application/json"}},
        },
    },
    example=lambda model: {"model": model.id, "n": 4, "seed": 7, "format": "grid"},
    response={
        "application/json": SampleResponse,
        NDJSON.decode(): Sample,
        "text/plain": TEXT,
        "image/png": BINARY,
        "audio/wav": BINARY,
        "audio/flac": BINARY,
        "audio/pcm": BINARY,
        "application/octet-stream": BINARY,
    },
    description="The samples, in the requested format.",
    headers=SAMPLE_HEADERS,
    errors=SAMPLING_ERRORS,
)


class NativeApi:
    """The native endpoints of one replica."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._decoder = msgspec.json.Decoder(SampleRequest)

    def routes(self) -> tuple[Route, ...]:
        """Routes for `serve.http.Application`."""
        samples = endpoint(self._sampler, API, self._decode, self._respond)
        return (
            Route("GET", "/v1/models", self.list_models, LIST_MODELS),
            Route("GET", "/v1/models/{id:path}", self.describe_model, GET_MODEL),
            Route("POST", SAMPLES, samples, CREATE_SAMPLES),
        )

    async def list_models(self, scope: Scope, receive: Receive) -> Response:
        self._sampler.admit(scope["headers"])
        models = [summary(hosted) for hosted in self._sampler.hosted().all]
        return json_response(msgspec.to_builtins(ModelList(data=models)))

    async def describe_model(self, scope: Scope, receive: Receive) -> Response:
        self._sampler.admit(scope["headers"])
        hosted = self._sampler.find(scope["path_params"]["id"])
        return json_response(msgspec.to_builtins(summary(hosted)))

    async def _respond(
        self, request: SampleRequest, scope: Scope, context: RequestContext
    ) -> Response:
        if request.inputs is not None:
            return await self._transform(request, request.inputs, context)
        sampling = self._parse_request(request, context.seed(request.seed))
        context.metrics = sampling.runner.metrics
        if is_streamed(sampling, request.format):
            return await stream_sound(self._sampler, sampling, request.format, context)
        if request.format == "ndjson":
            await self._sampler.charge(sampling.n, sampling.runner, context)
            lines = self._lines(sampling, request, context)
            # Generated before the status is sent, so that a full queue still is a 503.
            first = await anext(lines)
            headers = [*self._sampler.provenance_headers(sampling), NO_STORE]
            return Stream(first, NDJSON, headers=headers, chunks=lines)
        outputs = await self._sampler.run(sampling, context)
        return await self._encode(sampling, outputs, request, context)

    async def _encode_parts(
        self, parts: Sequence[Part], request: SampleRequest, context: RequestContext
    ) -> Response:
        """Samples of several sizes as one response. Raises HTTPError 400."""
        if request.format not in ("json", "ndjson"):
            message = (
                f"format {request.format} holds samples of one size, the inputs have several; take"
                " json or ndjson"
            )
            raise HTTPError(400, "format_needs_one_sample", message, param="format")
        chosen = [
            (part, select_outputs(part.runner, request.outputs, outputs)) for part, outputs in parts
        ]
        headers = self._sampler.provenance_headers(chosen[0][0])
        values = sum(part.n * part.runner.values_per_sample for part, _ in parts)
        encoding = partial(encode_parts, chosen, request.format, headers)
        return await self._sampler.encode(context, values, encoding)

    async def _encode(
        self,
        sampling: SamplingRequest,
        outputs: Arrays,
        request: SampleRequest,
        context: RequestContext,
    ) -> Response:
        outputs = select_outputs(sampling.runner, request.outputs, outputs)
        encoding = partial(
            encode, sampling, request.format, outputs, self._sampler.provenance_headers(sampling)
        )
        values = sampling.n * sampling.runner.values_per_sample
        inline = COPY_INLINE_VALUES if request.format == "npy" else ENCODE_INLINE_VALUES
        return await self._sampler.encode(context, values, encoding, inline)

    def _decode(self, scope: Scope, body: bytes) -> SampleRequest:
        """JSON or a form; Accept may select the format. Raises HTTPError 400."""
        kind = next((v for k, v in scope["headers"] if k == b"content-type"), b"")
        if kind.partition(b";")[0].strip().lower() != MULTIPART:
            request = decode(self._decoder, body, SAMPLES)
        else:
            fields = decode_form(body, kind, SampleRequest.__struct_fields__)
            try:
                request = whole_numbers.decode_form(fields, SampleRequest)
            except msgspec.ValidationError as error:
                raise malformed(f"the form is not what {SAMPLES} takes: {error}") from None
        if request.format == "json" and text_codec.wants_lines(scope["headers"]):
            return msgspec.structs.replace(request, format="txt")
        return request

    async def _lines(
        self, sampling: SamplingRequest, request: SampleRequest, context: RequestContext
    ) -> AsyncGenerator[bytes, None]:
        """The samples as lines of JSON, one batch at a time. Raises HTTPError 503."""
        parts = list(sampling.split(sampling.runner.max_batch))
        running = self._sampler.run_parts(parts, context)
        async with contextlib.aclosing(running):
            for part in parts:
                outputs = select_outputs(part.runner, request.outputs, await anext(running))
                values = part.n * part.runner.values_per_sample
                encoding = partial(encode_lines, part, outputs)
                yield await self._sampler.encode(context, values, encoding)

    async def _transform(
        self, request: SampleRequest, inputs: Inputs, context: RequestContext
    ) -> Response:
        """Run a signature on the request's inputs. Raises HTTPError 400, 404, 429 or 503."""
        hosted = self._sampler.find(request.model)
        signature = request.signature or hosted.artifact.manifest.default_signature(has_inputs=True)
        composed = is_composed(hosted, signature)
        taken = self._sampler.runner(request.model, ENCODE if composed else signature)
        n = num_samples(inputs, request.n, accepted_inputs(taken))
        request = msgspec.structs.replace(request, n=n, signature=signature)
        if composed:
            return await self._reconstruct(request, inputs, n, context)
        sampling = self._parse_request(request, context.seed(request.seed), has_inputs=True)
        check_inputs(sampling, inputs, request.seed is not None)
        context.metrics = sampling.runner.metrics
        parts = await read_inputs(self._sampler, sampling, inputs, context)
        part, arrays = parts[0]
        if len(parts) == 1 and is_streamed(part, request.format):
            return await stream_sound(self._sampler, part, request.format, context, arrays)
        parts = await transform(self._sampler, parts, context)
        if len(parts) == 1:
            return await self._encode(*parts[0], request, context)
        return await self._encode_parts(parts, request, context)

    async def _reconstruct(
        self, request: SampleRequest, inputs: Inputs, n: int, context: RequestContext
    ) -> Response:
        """Run encode, then decode on its latents: the signature reconstruct. Raises HTTPError."""
        encoding = self._sampler.build_request(
            self._sampler.runner(request.model, ENCODE), n=n, label=request.label, has_inputs=True
        )
        decoding = msgspec.structs.replace(request, signature=DECODE)
        sampling = self._parse_request(decoding, None, has_inputs=True, composed=RECONSTRUCT)
        check_inputs(encoding, inputs, request.seed is not None)
        check_decoding(sampling)
        context.metrics = sampling.runner.metrics
        encoding, codes = await run_encoder(self._sampler, encoding, inputs, context)
        sampling, outputs = await run_decoder(self._sampler, sampling, codes, context)
        sampling = sampling.with_inputs(encoding.inputs)
        return await self._encode(sampling, outputs, request, context)

    def _parse_request(
        self,
        request: SampleRequest,
        seed: int | None,
        has_inputs: bool = False,
        composed: str = "",
    ) -> SamplingRequest:
        """The validated request; arguments as of build_request(). Raises HTTPError 400 or 404."""
        runner = self._sampler.runner(request.model, request.signature or None)
        sampling = self._sampler.build_request(
            runner,
            n=1 if request.n is None else request.n,
            seed=seed,
            first_index=request.first_index,
            label=request.label,
            settings=request.settings,
            sizes=chosen_sizes(runner, request.size, request.sizes),
            stopping_criterion=text_codec.check_stop(request.stop, runner),
            has_inputs=has_inputs,
            composed=composed,
        )
        check_format(request.format, sampling, chosen_outputs(sampling.runner, request.outputs))
        return sampling


def summary(hosted: HostedModel) -> ModelSummary:
    """The entry of a model in /v1/models."""
    artifact = hosted.artifact
    manifest = artifact.manifest
    return ModelSummary(
        id=manifest.id,
        name=manifest.name,
        version=manifest.version,
        family=manifest.family,
        model=manifest.model,
        preset=manifest.source,
        digest=manifest.digest,
        created=_unix_seconds(manifest.created),
        created_at=manifest.created,
        licence=manifest.licence,
        signatures=manifest.signatures,
        reproducibility=artifact.reproducibility,
        provider=hosted.provider,
        metrics=manifest.metrics,
        precision=manifest.precision,
    )


def _unix_seconds(created: str) -> int:
    """A manifest's time, which is not validated; 0 if it is malformed."""
    try:
        moment = datetime.fromisoformat(created)
    except ValueError:
        return 0
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
