"""What a request gives beside its seed: images, sounds and texts, in JSON or as a form.

    curl http://localhost:8000/v1/samples -F model=digits3 -F image=@seven.png -F outputs=audio \\
        -F format=wav -o seven.wav

In JSON, `inputs` holds them by name: files as base64, texts as they are. What can be refused unread
is refused first (check_inputs); then it is paid for, read, and run (made_from).
"""

import base64
import binascii
import io
import itertools
from collections.abc import Collection
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, parse_form

from aigc.artifact import TensorSpec, intake
from aigc.artifact.intake import MAX_PIXELS
from serve.ask import Ask
from serve.batching import Arrays
from serve.call import Call
from serve.dialects import texts
from serve.hosting import Hosted
from serve.http import HTTPError
from serve.lane import SignatureLane
from serve.sampling import Sampler

ENCODE, DECODE, RECONSTRUCT, TRANSLATE = "encode", "decode", "reconstruct", "translate"

Inputs = dict[str, str | list[str | float | list[float]]]
"""One thing for all samples, or a list with one for each; numbers are lists themselves."""

MULTIPART = b"multipart/form-data"
MAX_PARTS = 32
"""Most parts of a form."""

_FILES = ("image", "audio")
"""Kinds of inputs that come as files."""


def num_given(inputs: Inputs, n: int | None) -> int:
    """How many samples are asked for: as many as are listed. Raises HTTPError 400."""
    if not inputs:
        message = "inputs must name at least one input, got none"
        raise HTTPError(400, "inputs_count", message, param="inputs")
    lengths = {name: len(value) for name, value in inputs.items() if _is_list(value)}
    asked = lengths if n is None else {"n": n, **lengths}
    if len(set(asked.values())) > 1:
        found = ", ".join(f"{name[:60]} {length}" for name, length in asked.items())
        message = f"lists of inputs hold one for each of n samples, got {found}"
        raise HTTPError(400, "inputs_count", message, param="inputs")
    return next(iter(asked.values()), 1)


def is_composed(hosted: Hosted, signature: str) -> bool:
    """Whether a signature is two of a model's: it encodes, then decodes."""
    lanes = hosted.lanes
    return signature == RECONSTRUCT and signature not in lanes and lanes.keys() >= {ENCODE, DECODE}


def check_inputs(ask: Ask, names: Collection[str], has_seed: bool = False) -> None:
    """Raise HTTPError 400 unless the inputs of these names are all that an ask still needs.

    A class is not drawn for what is given, and a seed must have a say.
    """
    spec = ask.lane.spec
    if has_seed and not _seeded(ask.lane):
        message = "seed has no effect: all that is to be run on is given by inputs"
        raise HTTPError(400, "no_effect", message, param="seed")
    takes = _takes(ask.lane)
    if unknown := [name for name in names if name not in takes]:
        message = (
            f"signature {ask.lane.name!r} of {ask.lane.artifact.id} takes no input"
            f" {unknown[0][:60]!r}, it takes: {', '.join(takes) or 'none'}"
        )
        raise HTTPError(400, "unknown_input", message, param="inputs")
    lacking = [one.name for one in takes.values() if not one.presence and one.name not in names]
    if spec.label is not None and ask.label is None:
        lacking = [spec.label.name, *lacking]
    if lacking:
        message = (
            f"signature {ask.lane.name!r} of {ask.lane.artifact.id} needs {lacking[0]} beside what"
            " is given: nothing is drawn for it"
        )
        raise HTTPError(400, "signature_needs_input", message, param=lacking[0])


def check_decoding(ask: Ask) -> None:
    """check_inputs() of a signature that is to be given latents by decoded()."""
    check_inputs(ask, [_code(ask.lane)])


async def made_from(sampler: Sampler, ask: Ask, inputs: Inputs, call: Call) -> tuple[Ask, Arrays]:
    """What a signature makes of inputs that were checked, and the ask that knows them.

    Raises HTTPError 400, 429 or 503.
    """
    read = partial(_with_inputs, ask, inputs)
    ask, arrays = await sampler.read(ask.n, ask.lane, call, MAX_PIXELS, read)
    return ask, await sampler.infer(ask.lane, arrays, call, ask.until)


async def encoded(
    sampler: Sampler, ask: Ask, inputs: Inputs, call: Call
) -> tuple[Ask, NDArray[np.float32]]:
    """made_from(), of a signature that gives the means of a posterior first: (n, latent)."""
    ask, outputs = await made_from(sampler, ask, inputs, call)
    return ask, outputs[ask.lane.spec.outputs[0].name]


async def decoded(
    sampler: Sampler, ask: Ask, codes: NDArray[np.float32], call: Call
) -> tuple[Ask, Arrays]:
    """What a signature makes of latents, (n, latent). Raises HTTPError 400, 429 or 503."""
    ask, arrays = _completed(ask, {_code(ask.lane): codes})
    return ask, await sampler.infer(ask.lane, arrays, call, ask.until)


def _with_inputs(ask: Ask, inputs: Inputs) -> tuple[Ask, Arrays]:
    """Reads files: belongs into a thread. Raises HTTPError 400."""
    takes = _takes(ask.lane)
    return _completed(
        ask, {name: _rows(takes[name], value, ask.n) for name, value in inputs.items()}
    )


def _completed(ask: Ask, rows: Arrays) -> tuple[Ask, Arrays]:
    """The ask, with what it is made from in its provenance, and all inputs of its signature."""
    lane = ask.lane
    try:
        drawn = lane.artifact.draw(
            lane.name, ask.seed, ask.indices, ask.label, ask.settings, given=rows
        )
    except ValueError as error:
        raise HTTPError(400, "malformed_input", f"{error}", param="inputs") from None
    # A seed that has no say is not told either: the same file is the same bytes again.
    seeded = _seeded(lane)
    return replace(ask, given=rows, seeded=seeded, seed=ask.seed if seeded else 0), drawn


def _seeded(lane: SignatureLane) -> bool:
    return any(one.kind in ("latent", "uniform") for one in lane.spec.inputs)


def _takes(lane: SignatureLane) -> dict[str, TensorSpec]:
    """The inputs of a lane that can be given, by name."""
    return {one.name: one for one in lane.spec.inputs if one.kind in intake.KINDS}


def _code(lane: SignatureLane) -> str:
    """The input of a decoder that takes what its encoder gives."""
    return next(one.name for one in lane.spec.inputs if one.kind == "vector")


def _is_list(value: Any) -> bool:
    """Whether it is one for each sample."""
    return isinstance(value, list) and (not value or not isinstance(value[0], int | float))


def _rows(spec: TensorSpec, value: Any, n: int) -> NDArray[Any]:
    """One input of n samples, (n, *shape)."""
    each = value if _is_list(value) else [value]
    if spec.kind == "text" and all(isinstance(one, str) for one in each):
        found = texts.tokens(spec, each, spec.name)
    else:
        try:
            found = np.stack(
                [
                    intake.tensor(
                        spec, _file(spec.name, one) if spec.kind in _FILES else one, len(each)
                    )
                    for one in each
                ]
            )
        except ValueError as error:
            raise HTTPError(400, "malformed_input", f"{error}", param="inputs") from None
    return np.broadcast_to(found, (n, *spec.shape))


def _file(name: str, value: Any) -> bytes:
    if not isinstance(value, str):
        raise ValueError(f"input {name!r} must be a file as base64, got {type(value).__name__}")
    _, comma, behind = value.partition(",")
    encoded = behind if comma and value.startswith("data:") else value
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"input {name!r} must be a file as base64, and is not base64") from None


def document(body: bytes, content_type: bytes, fields: tuple[str, ...]) -> dict[str, Any]:
    """A form as the JSON of the same request: its `fields` by name, and all else below `inputs`.

    `outputs` may come several times, or joined by commas; `settings` are JSON themselves. Raises
    HTTPError 400.
    """
    found: dict[str, Any] = {}
    inputs: dict[str, str] = {}
    parts = itertools.count()

    def take(part: Field | File, value: str) -> None:
        name = (part.field_name or b"").decode("utf-8", "replace")
        if next(parts) >= MAX_PARTS:
            raise ValueError(f"it has more than {MAX_PARTS} parts")
        if name == "outputs":
            found.setdefault(name, []).extend(value.split(","))
        elif name in found or name in inputs:
            raise ValueError(f"{name[:60]!r} comes twice")
        elif name == "settings":
            found[name] = _settings(value)
        elif name in fields and name != "inputs":
            found[name] = value
        else:
            inputs[name] = value

    def file(part: File) -> None:
        part.file_object.seek(0)
        take(part, base64.b64encode(part.file_object.read()).decode())

    def field(part: Field) -> None:
        take(part, (part.value or b"").decode())

    try:
        if not body.rstrip().endswith(b"--"):  # which the parser lets pass
            raise ValueError("it is cut off: its closing boundary is missing")
        parse_form({"Content-Type": content_type}, io.BytesIO(body), field, file)
    except (FormParserError, ValueError) as error:  # UnicodeDecodeError is a ValueError
        message = f"the form cannot be read: {error}"
        raise HTTPError(400, "malformed_body", message) from None
    return {**found, **({"inputs": inputs} if inputs else {})}


def _settings(value: str) -> dict[str, float]:
    try:
        return msgspec.json.decode(value, type=dict[str, float])
    except msgspec.DecodeError as error:
        raise ValueError(f'settings must be JSON, as {{"temperature": 0.5}}: {error}') from None
