"""What a request gives beside its seed: images, sounds and texts, in JSON or as a form.

    curl http://localhost:8000/v1/samples -F model=digits3 -F image=@seven.png -F outputs=audio \\
        -F format=wav -o seven.wav

In JSON, `inputs` holds them by name: files as base64, texts as they are.
"""

import base64
import binascii
import io
import itertools
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, parse_form

from aigc.artifact import intake
from serve.ask import Ask
from serve.batching import Arrays
from serve.dialects import texts
from serve.http import HTTPError
from serve.lane import SignatureLane

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


def with_inputs(ask: Ask, inputs: Inputs, has_seed: bool) -> tuple[Ask, Arrays]:
    """The ask, with what it is made from in its provenance, and all inputs of its signature.

    A class is not drawn for what is given. Reads files: belongs into a thread. Raises HTTPError
    400.
    """
    lane = ask.lane
    spec = lane.spec
    seeded = any(one.kind in ("latent", "uniform") for one in spec.inputs)
    if has_seed and not seeded:
        raise no_effect()
    rows = {name: _rows(lane, name, value, ask.n) for name, value in inputs.items()}
    if spec.label is not None and ask.label is None:
        raise _needed(lane, spec.label.name)
    lacking = [one.name for one in spec.inputs if one.kind in intake.KINDS and not one.presence]
    for name in lacking:
        if name not in rows:
            raise _needed(lane, name)
    try:
        drawn = lane.artifact.draw(
            lane.name, ask.seed, ask.indices, ask.label, ask.settings, given=rows
        )
    except ValueError as error:
        raise HTTPError(400, "malformed_input", f"{error}", param="inputs") from None
    # A seed that has no say is not told either: the same file is the same bytes again.
    return replace(ask, given=rows, seeded=seeded, seed=ask.seed if seeded else 0), drawn


def no_effect() -> HTTPError:
    """A seed for what nothing is drawn for."""
    message = "seed has no effect: all that is to be run on is given by inputs"
    return HTTPError(400, "no_effect", message, param="seed")


def _needed(lane: SignatureLane, name: str) -> HTTPError:
    message = (
        f"signature {lane.name!r} of {lane.artifact.id} needs {name} beside what is given: nothing"
        " is drawn for it"
    )
    return HTTPError(400, "signature_needs_input", message, param=name)


def _is_list(value: Any) -> bool:
    """Whether it is one for each sample."""
    return isinstance(value, list) and (not value or not isinstance(value[0], int | float))


def _rows(lane: SignatureLane, name: str, value: Any, n: int) -> NDArray[Any]:
    """One input of n samples, (n, *shape)."""
    takes = {one.name: one for one in lane.spec.inputs if one.kind in intake.KINDS}
    spec = takes.get(name)
    if spec is None:
        message = (
            f"signature {lane.name!r} of {lane.artifact.id} takes no input {name[:60]!r}, it takes:"
            f" {', '.join(takes) or 'none'}"
        )
        raise HTTPError(400, "unknown_input", message, param="inputs")
    each = value if _is_list(value) else [value]
    if spec.kind == "text" and all(isinstance(one, str) for one in each):
        found = texts.tokens(spec, each, name)
    else:
        try:
            found = np.stack(
                [
                    intake.tensor(spec, _file(name, one) if spec.kind in _FILES else one, len(each))
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

    `outputs` may come several times, or joined by commas. Raises HTTPError 400.
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
        else:
            (found if name in fields else inputs)[name] = value

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
