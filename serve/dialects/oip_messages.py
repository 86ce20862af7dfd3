"""The bodies of the Open Inference Protocol over HTTP, as far as they are JSON."""

from typing import Annotated

import msgspec
from msgspec import Meta

Parameters = dict[str, str | bool | int | float]
Name = Annotated[str, Meta(description="One of the model's metadata.")]


class InputTensor(msgspec.Struct, frozen=True, kw_only=True):
    """A tensor to run the model on; what is left out is drawn from the seed."""

    name: Name
    datatype: Annotated[str, Meta(description="FP32, INT64 or BYTES, as in the metadata.")]
    shape: Annotated[list[Annotated[int, Meta(ge=0)]], Meta(description="The batch axis first.")]
    data: Annotated[
        msgspec.Raw, Meta(description="Numbers or texts, flat or nested, the last axis fastest.")
    ] = msgspec.field(default_factory=msgspec.Raw)
    parameters: Annotated[
        Parameters | None,
        Meta(description="binary_data_size: the tensor is that many bytes after the JSON."),
    ] = None


class OutputTensor(msgspec.Struct, frozen=True, kw_only=True):
    """An output to send."""

    name: Name
    parameters: Annotated[
        Parameters | None,
        Meta(description="binary_data: whether it follows the JSON as bytes."),
    ] = None


class InferenceRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Which tensors to run, or which samples to draw, and what to send."""

    inputs: list[InputTensor] = []
    outputs: Annotated[
        list[OutputTensor] | None, Meta(description="All of the model's if absent.")
    ] = None
    parameters: Annotated[
        Parameters | None,
        Meta(
            description="seed, n, first_index and label name the samples where no latent is given."
            " Settings of the model, such as temperature, may stand beside them; stop, one string,"
            " ends texts."
            " binary_data_output: whether outputs that do not say follow the JSON as bytes."
        ),
    ] = None
    id: Annotated[str | None, Meta(description="Comes back in the answer.")] = None


class ResponseTensor(msgspec.Struct, kw_only=True):
    """An output; `data` is flat, or absent and `binary_data_size` bytes after the JSON."""

    name: str
    datatype: str
    shape: list[int]
    data: list[int | float | str] | None = None
    parameters: Parameters | None = None


class InferenceResponse(msgspec.Struct, kw_only=True):
    """The outputs, in the order asked for."""

    model_name: str
    model_version: str
    parameters: Annotated[
        Parameters, Meta(description="digest, reproducibility; seed and first_index if drawn.")
    ]
    outputs: list[ResponseTensor]
    id: str | None = None


class ModelTensor(msgspec.Struct, kw_only=True):
    """An input or output; -1 is the batch axis."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(msgspec.Struct, kw_only=True):
    """A signature of an artifact as a model: `digits`, `digits:encode`."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[ModelTensor]
    """Latents and labels may be left out: they are drawn from the seed."""
    outputs: list[ModelTensor]


class InferenceError(msgspec.Struct, kw_only=True):
    """The body of every answer below /v2 that is no success."""

    error: str
