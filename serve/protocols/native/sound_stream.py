"""A sound that is made of chunks, sent as they are made: WAV, or PCM without a header."""

import contextlib
from collections.abc import AsyncGenerator
from functools import partial

from aigc.artifact import TensorSpec
from aigc.artifact.sampling_inputs import Arrays
from serve.http import NO_STORE, Stream
from serve.protocols import audio_responses
from serve.protocols.native.responses import Format
from serve.request_context import RequestContext
from serve.sampler import Sampler
from serve.sampling_request import SamplingRequest


def is_streamed(request: SamplingRequest, format_name: Format) -> bool:
    """True if the sound of a request is sent as it is made."""
    return format_name in audio_responses.STREAMED and request.runner.tiling is not None


async def stream_sound(
    sampler: Sampler,
    request: SamplingRequest,
    format_name: Format,
    context: RequestContext,
    inputs: Arrays | None = None,
) -> Stream:
    """The response, once its first chunk is made; a failure of a later one breaks it off.

    Its length is known and announced. Raises HTTPError 400, 429 or 503.
    """
    spec = audio_responses.audio_output(request.runner)
    assert spec is not None
    assert format_name in ("wav", "pcm")
    chunks = _chunks(sampler, request, spec, context, inputs)
    # Generated before the status is sent, so that a full queue still is a 503.
    first = await anext(chunks)
    channels, length = spec.fixed_shape
    head = audio_responses.head(format_name, length, spec, request.provenance(0))
    announced = b"%d" % (len(head) + 2 * channels * length)
    return Stream(
        head + first,
        audio_responses.MEDIA_TYPES[format_name],
        headers=[*sampler.provenance_headers(request), NO_STORE, (b"content-length", announced)],
        chunks=chunks,
        failure=None,
    )


async def _chunks(
    sampler: Sampler,
    request: SamplingRequest,
    spec: TensorSpec,
    context: RequestContext,
    inputs: Arrays | None,
) -> AsyncGenerator[bytes, None]:
    """The chunks as raw samples. Raises HTTPError 400, 429 or 503."""
    async with contextlib.aclosing(sampler.run_chunks(request, context, inputs)) as running:
        async for outputs in running:
            encoding = partial(audio_responses.raw, spec, outputs)
            yield await sampler.encode(context, outputs[spec.name].size, encoding)
