"""Inputs of a request beside its seed: images, sounds and texts, in JSON or as a form.

    curl http://localhost:8000/v1/samples -F model=digits3 -F image=@seven.png -F outputs=audio \\
        -F format=wav -o seven.wav

In JSON, `inputs` holds them by name: files as base64, texts as they are. check_inputs() refuses
what can be refused unread; read_inputs() charges the key and reads them, transform() runs the
signature.
"""

import asyncio
import base64
import binascii
import io
import itertools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, parse_form

from aigc.artifact import TensorSpec, user_inputs
from aigc.artifact.axes import Axis
from aigc.artifact.sampling_inputs import Arrays, channels
from aigc.artifact.user_inputs import MAX_PIXELS
from serve.errors import HTTPError
from serve.hosting.models import HostedModel
from serve.hosting.runner import SignatureRunner
from serve.protocols import text_codec
from serve.request_context import RequestContext
from serve.sampler import Sampler
from serve.sampling_request import SamplingRequest, check_sizes
from serve.tiled_samples import max_places

ENCODE, DECODE, RECONSTRUCT, TRANSLATE = "encode", "decode", "reconstruct", "translate"

Inputs = dict[str, str | float | list[str | float | list[float | list[float | list[float]]]]]
"""By input: one value for all samples, or a list with one per sample; numbers of several axes are
lists themselves."""

MULTIPART = b"multipart/form-data"
MAX_PARTS = 32
"""Maximum number of parts of a form."""

_FILES = ("image", "audio")
"""Kinds of inputs that are files."""


def num_samples(inputs: Inputs, n: int | None, takes: Mapping[str, TensorSpec]) -> int:
    """Number of samples: the length of the lists of inputs, which the signature `takes`.

    Raises HTTPError 400.
    """
    if not inputs:
        message = "inputs must name at least one input, got none"
        raise HTTPError(400, "inputs_count", message, param="inputs")
    lengths = {
        name: len(value)
        for name, value in inputs.items()
        if isinstance(value, list) and _is_list(takes.get(name), value)
    }
    asked = lengths if n is None else {"n": n, **lengths}
    if len(set(asked.values())) > 1:
        lengths_found = ", ".join(f"{name[:60]} {length}" for name, length in asked.items())
        message = f"lists of inputs hold one for each of n samples, got {lengths_found}"
        raise HTTPError(400, "inputs_count", message, param="inputs")
    return next(iter(asked.values()), 1)


def is_composed(hosted: HostedModel, signature: str) -> bool:
    """True if the signature stands for two of the model: encode, then decode."""
    runners = hosted.runners
    return (
        signature == RECONSTRUCT and signature not in runners and runners.keys() >= {ENCODE, DECODE}
    )


def check_inputs(request: SamplingRequest, names: Collection[str], has_seed: bool = False) -> None:
    """Raise HTTPError 400 unless the named inputs complete the request.

    A label is not drawn beside inputs, and a seed must have an effect.
    """
    runner, spec = request.runner, request.runner.spec
    if has_seed and not runner.spec.seeded:
        message = "seed has no effect: the inputs leave nothing to draw"
        raise HTTPError(400, "no_effect", message, param="seed")
    takes = accepted_inputs(runner)
    if unknown := [name for name in names if name not in takes]:
        message = (
            f"signature {runner.name!r} of {runner.artifact.id} takes no input"
            f" {unknown[0][:60]!r}, it takes: {', '.join(takes) or 'none'}"
        )
        raise HTTPError(400, "unknown_input", message, param="inputs")
    missing = [one.name for one in takes.values() if not one.presence and one.name not in names]
    if spec.label is not None and request.params.label is None:
        missing = [spec.label.name, *missing]
    if missing:
        message = (
            f"signature {runner.name!r} of {runner.artifact.id} needs {missing[0]} beside its"
            " inputs: it is not drawn"
        )
        raise HTTPError(400, "signature_needs_input", message, param=missing[0])


def check_decoding(request: SamplingRequest) -> None:
    """check_inputs() for run_decoder()."""
    check_inputs(request, [_latent_input(request.runner)])


Part = tuple[SamplingRequest, Arrays]
"""Consecutive samples of a request whose inputs have equal sizes, and arrays of theirs."""


async def read_inputs(
    sampler: Sampler, request: SamplingRequest, inputs: Inputs, context: RequestContext
) -> list[Part]:
    """Read checked inputs: the request with its inputs, and all arrays of its signature.

    Samples of different sizes are parts of their own. A key pays for images and sounds once they
    are read, even if one is malformed. Raises HTTPError 400, 429 or 503.
    """
    files = any(
        spec.kind in _FILES and name in inputs
        for name, spec in accepted_inputs(request.runner).items()
    )

    def measure() -> int:
        context.access.keep()  # reading is work, even of a malformed file
        return _file_bytes(sampler, request, inputs)

    def read() -> list[Part]:
        if files:
            context.access.keep()
        return _read_inputs(request, inputs)

    if files and request.runner.spec.parts:
        size = await sampler.read(request.n, request.runner, context, MAX_PIXELS, measure)
        context.hold_parts(size, "the files that were given")
    parts = await sampler.read(request.n, request.runner, context, MAX_PIXELS, read)
    for part, _ in parts:  # all of them, before the first runs
        sampler.check_n(part.n, part.runner)
    await sampler.charge_sizes([(part.n, part.runner) for part, _ in parts], context, whole=False)
    return parts


async def transform(sampler: Sampler, parts: list[Part], context: RequestContext) -> list[Part]:
    """Run the parts of read_inputs() at the same time: each request, and its outputs.

    Raises HTTPError 400, 429 or 503.
    """
    sampler.hold_parts([(part.n, part.runner) for part, _ in parts], context)
    if len(parts) > 1:
        context = context.unwatched()

    async def run(part: SamplingRequest, arrays: Arrays) -> Part:
        criterion = part.params.stopping_criterion
        return part, await sampler.infer(part.runner, arrays, context, criterion)

    if len(parts) == 1:
        return [await run(*parts[0])]
    tasks = [asyncio.create_task(run(*part)) for part in parts]
    try:
        return [*await asyncio.gather(*tasks)]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def run_encoder(
    sampler: Sampler, request: SamplingRequest, inputs: Inputs, context: RequestContext
) -> tuple[SamplingRequest, NDArray[np.float32]]:
    """Run an encoder, whose first output is the posterior's means: (n, latent)."""
    parts = await read_inputs(sampler, request, inputs, context)
    parts = await transform(sampler, parts, context)
    if len(parts) > 1:
        message = "inputs must have one size to be encoded and decoded together"
        raise HTTPError(400, "malformed_input", message, param="inputs")
    request, outputs = parts[0]
    return request, outputs[request.runner.spec.outputs[0].name]


async def run_decoder(
    sampler: Sampler, request: SamplingRequest, codes: NDArray[np.float32], context: RequestContext
) -> tuple[SamplingRequest, Arrays]:
    """Run a decoder on latents, (n, latent). Raises HTTPError 400, 429 or 503."""
    request, arrays = _complete(request, {_latent_input(request.runner): codes})
    return request, await sampler.infer(
        request.runner, arrays, context, request.params.stopping_criterion
    )


def _read_inputs(request: SamplingRequest, inputs: Inputs) -> list[Part]:
    """Decodes files, so it belongs in a thread. Raises HTTPError 400."""
    takes = accepted_inputs(request.runner)
    axes = request.runner.spec.reach
    rows = {name: _rows(takes[name], value, axes) for name, value in inputs.items()}
    parts = []
    for start, stop in _runs_of_one_size(rows, request.n):
        n = stop - start
        arrays = {
            name: np.broadcast_to(each[0], (n, *each[0].shape))
            if len(each) == 1
            else np.stack(each[start:stop])
            for name, each in rows.items()
        }
        parts.append(_complete(request.rows(start, stop), arrays))
    return parts


def _file_bytes(sampler: Sampler, request: SamplingRequest, inputs: Inputs) -> int:
    """Bytes of all given images and sounds of free sizes as inputs, before any is decoded.

    Raises HTTPError 400 for files too large to be taken in parts.
    """
    takes, total = accepted_inputs(request.runner), 0
    for name, value in inputs.items():
        spec = takes[name]
        if spec.kind not in _FILES or not spec.is_free:
            continue
        each: list[Any] = value if isinstance(value, list) else [value]
        limits = request.runner.limits or sampler.limits
        most = max_places(limits, request.runner, spec) // max(1, len(each))
        try:
            for one in each:
                places = user_inputs.num_places(spec, _file(name, one), most)
                total += 4 * channels(spec) * places
        except ValueError as error:
            raise HTTPError(400, "malformed_input", f"{error}", param="inputs") from None
    return total


def _runs_of_one_size(rows: dict[str, list[NDArray[Any]]], n: int) -> Iterator[tuple[int, int]]:
    """Start and end of each run of consecutive samples whose inputs have equal shapes."""
    several = [each for each in rows.values() if len(each) > 1]
    shapes = [tuple(each[i].shape for each in several) for i in range(n if several else 1)]
    ends = [i for i in range(1, len(shapes)) if shapes[i] != shapes[i - 1]]
    return zip([0, *ends], [*ends, n], strict=True)


def _complete(request: SamplingRequest, rows: Arrays) -> Part:
    """The request with its inputs, for the provenance, and all arrays of its signature."""
    runner, params = request.runner, request.params
    try:
        drawn = runner.artifact.draw(
            runner.name,
            params.seed,
            params.indices,
            params.label,
            params.settings,
            given=rows,
            sizes=params.sizes,
        )
    except ValueError as error:
        raise HTTPError(400, "malformed_input", f"{error}", param="inputs") from None
    if runner.spec.axes:
        sizes = check_sizes(params.sizes, runner, rows)
        request = replace(request.with_params(sizes=sizes), runner=runner.at(sizes))
    return request.with_inputs(rows), drawn


def accepted_inputs(runner: SignatureRunner) -> dict[str, TensorSpec]:
    """Inputs that a request may contain, by name."""
    return {one.name: one for one in runner.spec.inputs if one.kind in user_inputs.KINDS}


def _latent_input(runner: SignatureRunner) -> str:
    """Name of a decoder's input for the encoder's output."""
    return next(one.name for one in runner.spec.inputs if one.kind == "vector")


def _is_list(spec: TensorSpec | None, value: Any) -> bool:
    """True for a list of one value per sample, which for numbers has one more axis than a value."""
    if not isinstance(value, list) or not value:
        return isinstance(value, list)
    if spec is None or spec.kind != "vector":
        return not isinstance(value[0], int | float)
    axes, part = 0, value
    while isinstance(part, list) and part:
        axes, part = axes + 1, part[0]
    return axes > len(spec.shape)


def _rows(spec: TensorSpec, value: Any, axes: Mapping[str, Axis]) -> list[NDArray[Any]]:
    """An input of every sample, or one for all."""
    each = value if _is_list(spec, value) else [value]
    if spec.kind == "text" and all(isinstance(one, str) for one in each):
        return [*text_codec.encode_texts(spec, each, spec.name)]
    try:
        return [
            user_inputs.read_input(
                spec, _file(spec.name, one) if spec.kind in _FILES else one, len(each), axes
            )
            for one in each
        ]
    except ValueError as error:
        raise HTTPError(400, "malformed_input", f"{error}", param="inputs") from None


def _file(name: str, value: Any) -> bytes:
    if not isinstance(value, str):
        raise ValueError(f"input {name!r} must be a file as base64, got {type(value).__name__}")
    _, comma, behind = value.partition(",")
    data = behind if comma and value.startswith("data:") else value
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"input {name!r} must be a file as base64, and is not base64") from None


def decode_form(body: bytes, content_type: bytes, fields: tuple[str, ...]) -> dict[str, Any]:
    """A form as the JSON of the same request: `fields` by name, all other parts below `inputs`.

    `outputs` may be repeated or joined by commas; `settings` and `sizes` are JSON. Raises HTTPError
    400.
    """
    document: dict[str, Any] = {}
    inputs: dict[str, str] = {}
    parts = itertools.count()

    def take(part: Field | File, value: str) -> None:
        name = (part.field_name or b"").decode("utf-8", "replace")
        if next(parts) >= MAX_PARTS:
            raise ValueError(f"it has more than {MAX_PARTS} parts")
        if name == "outputs":
            document.setdefault(name, []).extend(value.split(","))
        elif name in document or name in inputs:
            raise ValueError(f"{name[:60]!r} comes twice")
        elif name in ("settings", "sizes"):
            document[name] = _numbers(name, value)
        elif name in fields and name != "inputs":
            document[name] = value
        else:
            inputs[name] = value

    def file(part: File) -> None:
        part.file_object.seek(0)
        take(part, base64.b64encode(part.file_object.read()).decode())

    def field(part: Field) -> None:
        take(part, (part.value or b"").decode())

    try:
        if not body.rstrip().endswith(b"--"):  # the parser accepts that
            raise ValueError("it is cut off: its closing boundary is missing")
        parse_form({"Content-Type": content_type}, io.BytesIO(body), field, file)
    except (FormParserError, ValueError) as error:  # UnicodeDecodeError is a ValueError
        message = f"the form cannot be read: {error}"
        raise HTTPError(400, "malformed_body", message) from None
    return {**document, **({"inputs": inputs} if inputs else {})}


def _numbers(name: str, value: str) -> dict[str, float]:
    kind, example = dict[str, float], '{"temperature": 0.5}'
    if name == "sizes":
        kind, example = dict[str, int], '{"h": 64}'  # type: ignore[assignment]
    try:
        return msgspec.json.decode(value, type=kind)
    except msgspec.DecodeError as error:
        raise ValueError(f"{name} must be JSON, as {example}: {error}") from None
