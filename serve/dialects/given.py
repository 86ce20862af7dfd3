"""What a request gives beside its seed: images, sounds and texts, in JSON or as a form.

    curl http://localhost:8000/v1/samples -F model=digits3 -F image=@seven.png -F outputs=audio \\
        -F format=wav -o seven.wav

In JSON, `inputs` holds them by name: files as base64, texts as they are.
"""

import base64
import binascii
import io
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, parse_form

from aigc.artifact import intake
from serve.ask import Ask
from serve.batching import Arrays
from serve.http import HTTPError

MULTIPART = b"multipart/form-data"
MAX_PARTS = 32
"""Most parts of a form."""

_FILES = ("image", "audio")
"""Kinds of inputs that come as files."""


def with_inputs(ask: Ask, inputs: Mapping[str, str | list[float]]) -> tuple[Ask, Arrays]:
    """The ask, with what it is made from in its provenance, and all inputs of its signature.

    Reads files: belongs into a thread. Raises HTTPError 400.
    """
    lane = ask.lane
    kinds = {spec.name: spec.kind for spec in lane.spec.inputs}
    try:
        read = {
            name: _file(name, value) if kinds.get(name) in _FILES else value
            for name, value in inputs.items()
        }
        given = intake.tensors(lane.spec, read, ask.n)
        drawn = lane.artifact.draw(lane.name, ask.seed, ask.indices, ask.label, given=given)
    except ValueError as error:
        raise HTTPError(400, "malformed_input", f"{error}", param="inputs") from None
    return replace(ask, given=intake.fingerprints(given)), drawn


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

    def take(part: Field | File, value: str) -> None:
        name = (part.field_name or b"").decode("utf-8", "replace")
        if len(found) + len(inputs) >= MAX_PARTS:
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
