"""The native dialect: models, their signatures, and samples of a seed.

    POST /v1/samples {"model": "digits", "n": 8, "seed": 7, "label": 3, "format": "json"}

Sample `index` of `seed` is the same alone, in a batch and on every replica, up to the
reproducibility level that the answer states.
"""

import asyncio
import base64
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta

from aigc.artifact import codecs, latents
from aigc.artifact.codecs import Provenance
from aigc.artifact.manifest import Reproducibility, Signature
from serve.batching import Arrays, Batcher, ClosedError, OverloadedError
from serve.hosting import PIXELS, Hosted, Models, SignatureLane
from serve.http import (
    NO_STORE,
    Endpoints,
    Headers,
    HTTPError,
    Receive,
    Response,
    Scope,
    json_response,
    read_body,
)
from serve.metrics import Metrics, RequestMetrics
from serve.settings import MAX_SEED, Limits

Format = Literal["png", "grid", "npy", "json"]

API = "native"

ENCODE_INLINE_VALUES = 1 << 15
"""Answers of fewer values are encoded on the event loop; a thread would cost more than it frees."""


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
    format: Annotated[
        Format,
        Meta(
            description="json: every sample, images as base64 PNG. png: one image, n must be 1."
            " grid: all images in one PNG. npy: (n, height, width, channels) uint8 for images, else"
            " the first output as it is."
        ),
    ] = "json"


class Sample(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One sample."""

    index: int
    label: int | None = None
    """Its class, asked for or drawn; absent for models without classes."""
    image: str | None = None
    """base64 of a PNG that carries its provenance."""
    outputs: dict[str, Any] | None = None
    """Numbers by output, for signatures that give no image."""


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
    """One hosted version of a model."""

    id: str
    name: str
    version: str
    family: str
    model: str
    preset: str
    digest: str
    created: str
    licence: str
    signatures: dict[str, Signature]
    reproducibility: dict[str, Reproducibility]
    """By signature, as measured by the replica that answered."""
    metrics: dict[str, float]


class ModelList(msgspec.Struct, kw_only=True):
    """What is hosted, by name and from the oldest version to the newest."""

    data: list[ModelSummary]
    object: Literal["list"] = "list"


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A request that was found valid."""

    lane: SignatureLane
    n: int
    seed: int
    first_index: int
    label: int | list[int] | None
    format: Format

    @property
    def indices(self) -> range:
        return range(self.first_index, self.first_index + self.n)

    def label_of(self, position: int) -> int | None:
        """The class asked for the sample at `position`."""
        return self.label[position] if isinstance(self.label, list) else self.label

    def of_grid(self) -> Provenance:
        """Of all samples in one picture."""
        labels = [self.label] if isinstance(self.label, int) else self.label or ()
        return replace(self.provenance(0, None), n=self.n, labels=tuple(labels))

    def provenance(self, position: int, label: int | None) -> Provenance:
        """Of one sample."""
        artifact = self.lane.artifact
        return Provenance(
            artifact=artifact.id,
            digest=artifact.manifest.digest,
            signature=self.lane.name,
            seed=self.seed,
            index=self.first_index + position,
            label=label,
        )


class NativeApi:
    """The endpoints of the native dialect in one replica."""

    def __init__(
        self,
        *,
        models: Callable[[], Models | None],
        batcher: Batcher,
        metrics: Metrics,
        limits: Limits,
        replica: str,
    ) -> None:
        self._models = models
        self._batcher = batcher
        self._metrics = metrics
        self._limits = limits
        self._replica = replica.encode()
        self._decoder = msgspec.json.Decoder(SampleRequest)
        self._encoder_thread = ThreadPoolExecutor(1, thread_name_prefix="encoder")

    def routes(self) -> tuple[dict[str, Endpoints], dict[str, Endpoints]]:
        """Exact paths and prefixes, for `serve.http.Application`."""
        return (
            {"/v1/models": {"GET": self.list_models}, "/v1/samples": {"POST": self.samples}},
            {"/v1/models/": {"GET": self.describe_model}},
        )

    async def list_models(self, scope: Scope, receive: Receive) -> Response:
        models = [summary(hosted) for hosted in self._hosted().all]
        return json_response(msgspec.to_builtins(ModelList(data=models)))

    async def describe_model(self, scope: Scope, receive: Receive) -> Response:
        reference = scope["path"].removeprefix("/v1/models/")
        return json_response(msgspec.to_builtins(summary(self._find(reference))))

    async def samples(self, scope: Scope, receive: Receive) -> Response:
        started = time.perf_counter()
        counted: RequestMetrics = self._metrics.unknown
        code = 499  # what is counted when the client hangs up
        self._metrics.in_progress.inc()
        try:
            body = await read_body(scope, receive, self._limits.max_body_bytes)
            ask = self.check(self._decode(body))
            counted = ask.lane.metrics
            response = await self._answer(ask)
            code = response.status
            return response
        except HTTPError as error:
            code = error.status
            raise
        except Exception:
            code = 500
            raise
        finally:
            self._metrics.in_progress.dec()
            counted.answered(API, code, time.perf_counter() - started)

    def _decode(self, body: bytes) -> SampleRequest:
        try:
            return self._decoder.decode(body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            message = f"the body is not what /v1/samples takes: {error}"
            raise HTTPError(400, "malformed_body", message) from None

    def check(self, request: SampleRequest) -> Ask:
        """Raise HTTPError 400 or 404 with a stable code, or return what is to be done."""
        lane = self._lane(request.model, request.signature)
        self._check_n(request.n, lane)
        if request.format == "png" and request.n != 1:
            raise HTTPError(
                400,
                "format_needs_one_sample",
                f"format png holds one image, so n must be 1, got {request.n}; take grid for one"
                " picture of all, or json for one PNG per sample",
            )
        if request.format in ("png", "grid") and lane.image is None:
            raise HTTPError(
                400,
                "format_needs_image",
                f"signature {lane.name!r} of {lane.artifact.id} gives no image; take json or npy",
            )
        seed = secrets.randbelow(MAX_SEED + 1) if request.seed is None else request.seed
        if not 0 <= seed <= MAX_SEED:
            raise HTTPError(400, "seed_out_of_range", f"seed must be in [0, 2^53), got {seed}")
        if not 0 <= request.first_index <= MAX_SEED - request.n:
            raise HTTPError(
                400,
                "first_index_out_of_range",
                f"first_index must be in [0, 2^53 - n), got {request.first_index}",
            )
        check_label(request.label, request.n, lane)
        return Ask(
            lane=lane,
            n=request.n,
            seed=seed,
            first_index=request.first_index,
            label=request.label,
            format=request.format,
        )

    async def _answer(self, ask: Ask) -> Response:
        job = ask.lane.job(seed=ask.seed, first_index=ask.first_index, n=ask.n, label=ask.label)
        try:
            outputs = await self._batcher.submit(job)
        except OverloadedError as error:
            ask.lane.metrics.shed(ask.n)
            retry = (b"retry-after", b"%d" % error.retry_after_s)
            raise HTTPError(503, "overloaded", f"{error}", [retry]) from None
        except ClosedError:
            raise HTTPError(
                503, "shutting_down", "this replica shuts down; try again", [(b"retry-after", b"1")]
            ) from None
        encode_now = partial(encode, ask, outputs, self._headers(ask))
        if ask.n * ask.lane.values_per_sample < ENCODE_INLINE_VALUES:
            return encode_now()
        return await asyncio.get_running_loop().run_in_executor(self._encoder_thread, encode_now)

    def _headers(self, ask: Ask) -> Headers:
        manifest = ask.lane.artifact.manifest
        return [
            (b"x-aigc-model", manifest.id.encode()),
            (b"x-aigc-digest", manifest.digest.encode()),
            (b"x-aigc-seed", b"%d" % ask.seed),
            (b"x-aigc-first-index", b"%d" % ask.first_index),
            (b"x-aigc-reproducibility", ask.lane.level.encode()),
            (b"x-aigc-replica", self._replica),
        ]

    def _hosted(self) -> Models:
        models = self._models()
        if models is None:
            retry = (b"retry-after", b"1")
            raise HTTPError(503, "not_ready", "the models are being loaded; try again", [retry])
        return models

    def _find(self, reference: str) -> Hosted:
        models = self._hosted()
        hosted = models.find(reference)
        if hosted is None:
            message = f"unknown model {reference[:100]!r}; hosted are: {models.known()}"
            raise HTTPError(404, "unknown_model", message)
        return hosted

    def _lane(self, model: str, signature: str) -> SignatureLane:
        hosted = self._find(model)
        lane = hosted.lanes.get(signature)
        if lane is None:
            raise HTTPError(
                404,
                "unknown_signature",
                f"{hosted.id} has no signature {signature[:100]!r}, it has:"
                f" {', '.join(hosted.lanes)}",
            )
        if not lane.spec.drawable:
            needs = ", ".join(i.name for i in lane.spec.inputs if i.kind not in ("latent", "label"))
            raise HTTPError(
                400,
                "signature_needs_input",
                f"signature {signature!r} of {hosted.id} needs {needs}, which a seed cannot give",
            )
        return lane

    def _check_n(self, n: int, lane: SignatureLane) -> None:
        most = min(self._limits.max_n, max(1, self._limits.max_values // lane.values_per_sample))
        if not 1 <= n <= most:
            raise HTTPError(
                400,
                "n_out_of_range",
                f"n must be in [1, {most}] for {lane.artifact.id}, got {n}; ask several times with"
                " the same seed and the next first_index",
            )


def check_label(label: int | Sequence[int] | None, n: int, lane: SignatureLane) -> None:
    """Raise HTTPError 400 unless `label` is one class, n classes or None where there are none."""
    if label is None:
        return
    if lane.num_classes is None:
        raise HTTPError(
            400,
            "label_not_supported",
            f"{lane.artifact.id} takes no label: it was trained without classes",
        )
    given = [label] if isinstance(label, int) else label
    if not isinstance(label, int) and len(label) != n:
        message = f"label must be one class or n of them: n is {n}, got {len(label)}"
        raise HTTPError(400, "label_count", message)
    for value in given:
        if not 0 <= value < lane.num_classes:
            message = f"label must be in [0, {lane.num_classes}), got {value}"
            raise HTTPError(400, "label_out_of_range", message)


def encode(ask: Ask, outputs: Arrays, headers: Headers) -> Response:
    """Outputs of a lane -> the answer in the format asked for."""
    headers = [*headers, NO_STORE]
    if ask.format == "npy":
        array = outputs[PIXELS] if ask.lane.image is not None else next(iter(outputs.values()))
        return Response(codecs.npy(array), b"application/octet-stream", headers=headers)
    if ask.format == "png":
        data = codecs.png(outputs[PIXELS][0], ask.provenance(0, ask.label_of(0)))
        return Response(data, b"image/png", headers=headers)
    if ask.format == "grid":
        data = codecs.png(codecs.grid(outputs[PIXELS]), ask.of_grid())
        return Response(data, b"image/png", headers=headers)
    return json_response(_document(ask, outputs), headers)


def _document(ask: Ask, outputs: Arrays) -> dict[str, Any]:
    """The body of SampleResponse, its numbers still numpy arrays."""
    lane = ask.lane
    drawn = None
    if lane.num_classes is not None and ask.label is None:
        drawn = latents.labels(ask.seed, ask.indices, lane.num_classes)
    samples = []
    for position, index in enumerate(ask.indices):
        sample: dict[str, Any] = {"index": index}
        asked = ask.label_of(position)
        if lane.num_classes is not None:
            sample["label"] = asked if drawn is None else int(drawn[position])
        if lane.image is not None:
            data = codecs.png(outputs[PIXELS][position], ask.provenance(position, asked))
            sample["image"] = base64.b64encode(data).decode()
        else:
            sample["outputs"] = {k: np.ascontiguousarray(v[position]) for k, v in outputs.items()}
        samples.append(sample)
    return {
        "model": lane.artifact.id,
        "digest": lane.artifact.manifest.digest,
        "signature": lane.name,
        "seed": ask.seed,
        "reproducibility": lane.level,
        "samples": samples,
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
        created=manifest.created,
        licence=manifest.licence,
        signatures=manifest.signatures,
        reproducibility=artifact.reproducibility,
        metrics=manifest.metrics,
    )
