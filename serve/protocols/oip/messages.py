"""JSON bodies of the Open Inference Protocol over HTTP."""

from typing import Annotated

import msgspec
from msgspec import Meta

from serve.protocols.fields import field

Parameters = dict[str, str | bool | int | float]
Name = Annotated[str, field("A name from the model's metadata.")]


class InputTensor(msgspec.Struct, frozen=True, kw_only=True):
    """An input tensor; absent inputs are drawn from the seed."""

    name: Name
    datatype: Annotated[str, field("FP32, INT64 or BYTES, as in the metadata.")]
    shape: Annotated[list[Annotated[int, Meta(ge=0)]], field("The batch axis first.")]
    data: Annotated[
        msgspec.Raw, field("Numbers or texts, flat or nested, the last axis fastest.")
    ] = msgspec.field(default_factory=msgspec.Raw)
    parameters: Annotated[
        Parameters | None,
        field("binary_data_size: the tensor is that many bytes after the JSON."),
    ] = None


class OutputTensor(msgspec.Struct, frozen=True, kw_only=True):
    """A requested output."""

    name: Name
    parameters: Annotated[
        Parameters | None,
        field("binary_data: true to send it as bytes after the JSON."),
    ] = None


class InferenceRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Tensors to run or samples to draw, and the outputs to send."""

    inputs: list[InputTensor] = []
    outputs: Annotated[list[OutputTensor] | None, field("By default all outputs of the model.")] = (
        None
    )
    parameters: Annotated[
        Parameters | None,
        field(
            "seed, n, first_index and label (number or name of a class) select the samples if no"
            " latent is among the inputs. Settings of the model, such as temperature, are"
            " parameters, too; stop is one string that ends texts. binary_data_output: default of"
            " the outputs' binary_data."
        ),
    ] = None
    id: Annotated[str | None, field("Returned in the response.")] = None


class ResponseTensor(msgspec.Struct, kw_only=True):
    """An output; `data` is flat, or else `binary_data_size` bytes after the JSON."""

    name: str
    datatype: str
    shape: list[int]
    data: list[int | float | str] | None = None
    parameters: Parameters | None = None


class InferenceResponse(msgspec.Struct, kw_only=True):
    """The outputs, in the order requested."""

    model_name: str
    model_version: str
    parameters: Annotated[
        Parameters, field("digest, reproducibility; seed and first_index if drawn.")
    ]
    outputs: list[ResponseTensor]
    id: str | None = None


class ModelTensor(msgspec.Struct, kw_only=True):
    """An input or output; -1 is the batch axis."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(msgspec.Struct, kw_only=True):
    """Metadata of a model: a signature of an artifact, `digits` or `digits:encode`."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[ModelTensor]
    """Latents and labels may be absent: they are drawn from the seed."""
    outputs: list[ModelTensor]


class InferenceError(msgspec.Struct, kw_only=True):
    """Body of every error response below /v2."""

    error: str
