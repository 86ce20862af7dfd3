"""Verifies that a file was made here: it is recreated from its provenance and compared.

    curl --data-binary @seven.png http://localhost:8000/v1/verify

The provenance in an image or a sound is a claim that anybody can write; equal pixels or samples
prove it, and then the same samples can be drawn again.

A key pays for the samples that are recreated, and for one where none are: reading a file is work
too.
"""

from typing import Literal

import msgspec

from aigc.artifact import TensorSpec, audio_files, latents
from aigc.artifact.image_files import Provenance
from aigc.artifact.recreate import AudioFile, Comparison, ImageFile, check_columns, read_file
from aigc.artifact.sampling_inputs import Arrays
from serve.errors import Code, HTTPError
from serve.hosting.runner import PIXELS, SignatureRunner
from serve.http import Response, Route, Scope, json_response
from serve.operation import BINARY, SAMPLING_ERRORS, Operation
from serve.protocols import audio_responses
from serve.protocols.endpoint import raw_endpoint
from serve.protocols.native.interpolate import between
from serve.protocols.native.routes import API
from serve.request_context import RequestContext
from serve.sampler import Sampler
from serve.sampling_request import SamplingRequest, check_sizes

VERIFY = "/v1/verify"

MAX_PIXELS = 1 << 24
"""Most pixels of an image, more than any grid of small samples has."""

MAX_SAMPLES = 1 << 24
"""Most samples of a sound."""

Reason = Literal[
    "equal",
    "within_tolerance",
    "pixels_differ",
    "samples_differ",
    "no_provenance",
    "not_hosted",
    "another_digest",
    "cannot_be_made_again",
]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Result of a verification. Fields of the file's provenance are null where it has none."""

    made_here: bool
    """True if the recreated file is equal, or within the tolerance of the replica that recreated
    it: for sounds, and for pixels of reduced precision."""
    reason: Reason
    """Stable, for programs."""
    message: str
    """One sentence, for people."""
    artifact: str | None = None
    """`name@version` that the file names."""
    digest: str | None = None
    signature: str | None = None
    seed: int | None = None
    index: int | None = None
    label: int | None = None
    """The class asked for; null if it was drawn from the seed."""
    equal: bool | None = None
    """True if every pixel or sample is the same; null if the file could not be recreated."""
    max_abs_difference: int | None = None
    """Largest difference in levels, 0 to 255 of a pixel and 0 to 65534 of a sample; null if the
    file was not recreated or has another size."""


VERIFY_FILE = Operation(
    id="verify",
    summary="Verify that a file was made here: it is recreated and compared",
    tag="samples",
    request=dict.fromkeys(
        ("image/png", "image/webp", "image/jpeg", "audio/wav", "audio/flac"), BINARY
    ),
    response={"application/json": Verdict},
    description="The verdict.",
    errors=SAMPLING_ERRORS,
)


class VerificationApi:
    """The endpoint that verifies images and sounds in one replica."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def routes(self) -> tuple[Route, ...]:
        """Routes for `serve.http.Application`."""
        verify = raw_endpoint(self._sampler, API, self._respond)
        return (Route("POST", VERIFY, verify, VERIFY_FILE),)

    async def _respond(self, body: bytes, scope: Scope, context: RequestContext) -> Response:
        def read() -> ImageFile | AudioFile:
            context.access.keep()  # reading is work, whatever the file says
            return read_file(body, MAX_PIXELS, MAX_SAMPLES)

        try:
            # Always in the one thread for this, so that no two of them are in memory.
            file = await self._sampler.read(1, None, context, MAX_PIXELS, read)
        except ValueError as error:
            message = f"the body must be one PNG, WebP, JPEG, WAV, AIFF or FLAC: {error}"
            code: Code = "malformed_sound" if audio_files.is_sound(body[:12]) else "malformed_image"
            raise HTTPError(400, code, message) from None
        verdict = await self._verify(file, context)
        return json_response(msgspec.to_builtins(verdict))

    async def _verify(self, file: ImageFile | AudioFile, context: RequestContext) -> Verdict:
        provenance = file.provenance
        if provenance is None:
            return Verdict(
                made_here=False,
                reason="no_provenance",
                message=f"the {file.kind} does not say what made it, or no longer does",
            )
        name = repr(provenance.artifact[:100])
        hosted = self._sampler.hosted().find(provenance.artifact)
        if hosted is None or hosted.id != provenance.artifact:
            return _unproven(provenance, "not_hosted", f"{name} is not hosted here")
        if hosted.artifact.manifest.digest != provenance.digest:
            message = f"{name} is hosted here with another digest than the {file.kind} names"
            return _unproven(provenance, "another_digest", message)
        if provenance.given:
            message = f"the {file.kind} was made from inputs, which are not kept"
            return _unproven(provenance, "cannot_be_made_again", message)
        try:
            runner = self._sampler.runner(provenance.artifact, provenance.signature)
            runner = runner.at(check_sizes(provenance.sizes, runner))
            output = _output(file, runner)
            self._sampler.check_n(provenance.n, runner)
            check_columns(provenance)
            requests = _build_requests(self._sampler, provenance)
        except (HTTPError, ValueError) as error:
            return _unproven(provenance, "cannot_be_made_again", f"{error}")
        context.metrics = runner.metrics
        outputs = await self._recreate(requests, provenance.n, context)

        def compare() -> Comparison:
            image = output.kind == "image"
            samples = outputs[PIXELS] if image else audio_responses.clips(output, outputs)
            measured = runner.artifact.reproducibility[runner.name]
            return file.compare(samples, runner.artifact.manifest, measured)

        values = max(provenance.n * runner.values_per_sample, MAX_PIXELS)
        return _compared(file, provenance, await self._sampler.encode(context, values, compare))

    async def _recreate(
        self, requests: list[SamplingRequest], n: int, context: RequestContext
    ) -> Arrays:
        if len(requests) == 1:
            return await self._sampler.run(requests[0], context)
        start, stop = requests
        return await between(self._sampler, context, start, stop, n)


def _output(file: ImageFile | AudioFile, runner: SignatureRunner) -> TensorSpec:
    """The output that a file holds. Raises ValueError if there is none."""
    try:
        return file.output(runner.spec)
    except ValueError as error:
        message = f"signature {runner.name!r} of {runner.artifact.id} {error}"
        raise ValueError(message) from None


def _build_requests(sampler: Sampler, provenance: Provenance) -> list[SamplingRequest]:
    """The request that recreates a file, or those of both ends of an interpolation.

    Raises HTTPError for a provenance that no request can have had.
    """

    def build(n: int, seed: int, label: int | list[int] | None) -> SamplingRequest:
        return sampler.build_request(
            sampler.runner(provenance.artifact, provenance.signature),
            n=n,
            seed=seed,
            first_index=provenance.index,
            label=label,
            settings=provenance.settings,
            sizes=provenance.sizes,
        )

    if provenance.to_seed is None:
        return [build(provenance.n, provenance.seed, provenance.asked())]
    return [
        build(1, provenance.seed, provenance.label),
        build(1, provenance.to_seed, provenance.to_label),
    ]


def _unproven(provenance: Provenance, reason: Reason, message: str) -> Verdict:
    return _verdict(provenance, False, reason, message)


def _compared(
    file: ImageFile | AudioFile, provenance: Provenance, comparison: Comparison
) -> Verdict:
    difference, message = comparison.difference, f"recreated here: {comparison.describe()}"
    reason: Reason
    if comparison.matches:
        reason = "equal" if difference == 0 else "within_tolerance"
        return _verdict(
            provenance, True, reason, message, equal=difference == 0, max_abs_difference=difference
        )
    reason = "pixels_differ" if file.kind == "image" else "samples_differ"
    message += "; it was altered, or stored with loss"
    return _verdict(provenance, False, reason, message, equal=False, max_abs_difference=difference)


def _verdict(
    provenance: Provenance,
    made_here: bool,
    reason: Reason,
    message: str,
    *,
    equal: bool | None = None,
    max_abs_difference: int | None = None,
) -> Verdict:
    return Verdict(
        made_here=made_here,
        reason=reason,
        message=message,
        artifact=provenance.artifact,
        digest=provenance.digest,
        signature=provenance.signature,
        seed=_number(provenance.seed),
        index=_number(provenance.index),
        label=_number(provenance.label),
        equal=equal,
        max_abs_difference=max_abs_difference,
    )


def _number(claimed: int | None) -> int | None:
    """A number of the provenance; None if it is out of a seed's range, which JSON cannot hold."""
    return claimed if claimed is not None and 0 <= claimed <= latents.MAX_SEED else None
