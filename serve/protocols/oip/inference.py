"""The Open Inference Protocol apart from its transports: models, tensors, parameters, inference.

    call = InferenceCall(model="digits", version="", parameters={"seed": 7, "n": 4}, inputs=[])
    result = await infer(sampler, context, call)            # result.outputs["image"] (4, 1, 28, 28)

A signature is a model of the protocol: `digits` is the signature "sample" of the artifact digits,
`digits:encode` its signature "encode" (artifact names have no colon); the only signature of an
artifact without "sample" is found by the artifact's name, too. Versions are those of the artifact;
the default is the newest.

Tensors are those of the manifest, the batch axis first. A signature with an image output has a
further output `pixels`, (N, H, W, C) uint8, which is what the other protocols send. Requests for
pixels alone share batches with those of the other protocols; float outputs have a runner of their
own. A text is BYTES, (N,), not its tokens. A setting may be absent, a parameter for all samples, or
an input with one value per sample. The size of a free axis, -1 in shapes, is a parameter by its
name.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from aigc.artifact import TensorSpec
from aigc.artifact.axes import Shape, SizeError, solved
from aigc.artifact.sampling_inputs import Arrays, channels
from serve.errors import Code, HTTPError
from serve.hosting.runner import PIXELS, SignatureRunner
from serve.http import Headers
from serve.protocols import text_codec
from serve.protocols.oip.tensor_bytes import DATATYPES
from serve.request_context import RequestContext
from serve.sampler import Sampler
from serve.sampling_request import (
    SamplingRequest,
    check_label,
    check_settings,
    check_sizes,
    resolve_label,
)

EXTENSIONS = ("binary_tensor_data", "parameters")
PLATFORM = "onnxruntime_onnx"
SAMPLE = "sample"
_TEXT_VALUES = 1 << 24
"""Number of values assumed for texts before they are read."""


@dataclass(frozen=True, kw_only=True)
class LazyTensor:
    """An input tensor that is not decoded yet."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    read: "Callable[[np.dtype[Any], tuple[int, ...]], NDArray[Any]]"
    """(dtype, shape) -> the array. Called with a valid shape; raises HTTPError."""


@dataclass(frozen=True, kw_only=True)
class InferenceCall:
    """One inference request, independent of the transport."""

    model: str
    version: str
    """Empty for the newest."""
    parameters: Mapping[str, Any]
    inputs: Sequence[LazyTensor]
    outputs: Sequence[str] = ()
    """Names of the outputs to send; empty for all."""


@dataclass(frozen=True, kw_only=True)
class InferenceResult:
    """Outputs of an inference and their origin."""

    model: str
    version: str
    parameters: Mapping[str, str | int]
    """digest and reproducibility, and seed and first_index if inputs were drawn."""
    outputs: Arrays
    """By name, in the order requested."""
    headers: Headers

    @property
    def values(self) -> int:
        """Number of values in all outputs."""
        return sum(array.size for array in self.outputs.values())


@dataclass(frozen=True, kw_only=True)
class RequestParameters:
    """Parameters of a request that select samples; None where absent."""

    seed: int | None = None
    first_index: int | None = None
    n: int | None = None
    label: int | None = None
    stop: str | None = None
    """String that ends a text early."""
    settings: Mapping[str, float] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Sizes of free axes, a parameter by the name of each."""

    @classmethod
    def parse(cls, parameters: Mapping[str, Any], runner: SignatureRunner) -> "RequestParameters":
        """Raises HTTPError 400 for an unknown parameter or one of the wrong type."""
        settings = [spec.name for spec in runner.spec.inputs if spec.kind == "setting"]
        axes = [*runner.spec.axes]
        known = [*_WHOLE, *axes, *(["stop", *settings] if settings else [])]
        for name, value in parameters.items():
            if name not in known:
                raise HTTPError(
                    400,
                    "unknown_parameter",
                    f"unknown parameter {name[:100]!r}; there are: {', '.join(known)}",
                )
            wanted, what = _TYPES.get(name, ((int,), "a whole number"))
            if name not in settings and type(value) not in wanted:
                raise HTTPError(
                    400,
                    "malformed_parameter",
                    f"parameter {name} must be {what}, got {str(value)[:100]!r}",
                )
        chosen = {name: value for name, value in parameters.items() if name in settings}
        check_settings(chosen, runner)
        sizes = {name: value for name, value in parameters.items() if name in axes}
        check_sizes(sizes, runner)
        rest = {
            name: value
            for name, value in parameters.items()
            if name not in chosen and name not in sizes
        }
        rest |= {"label": resolve_label(rest["label"], runner)} if "label" in rest else {}
        return cls(**rest, settings=chosen, sizes=sizes)


_WHOLE = ("seed", "first_index", "n", "label")
_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "stop": ((str,), "a text"),
    "label": ((int, str), "a whole number or the name of a class"),
}
"""Types of parameters that are not whole numbers alone, and what they are in words."""


def runners(sampler: Sampler, model: str, version: str) -> tuple[SignatureRunner, SignatureRunner]:
    """The runners of a model: one for pixels, one for all tensors. Raises HTTPError 404."""
    name, colon, signature = model.partition(":")
    reference = f"{name}@{version}" if version else name
    runner = sampler.runner(reference, signature if colon else None)
    return runner, sampler.find(reference).tensors[runner.name]


def model_name(runner: SignatureRunner) -> str:
    """The protocol's name of a signature."""
    name = runner.artifact.manifest.name
    return name if runner.name == SAMPLE else f"{name}:{runner.name}"


def describe(sampler: Sampler, model: str, version: str) -> dict[str, Any]:
    """The metadata of a model: JSON, and the fields of the message. Raises HTTPError 404."""
    runner, _ = runners(sampler, model, version)
    name = runner.artifact.manifest.name
    manifests = [one.artifact.manifest for one in sampler.hosted().all]
    return {
        "name": model_name(runner),
        "versions": [
            m.version for m in manifests if m.name == name and runner.name in m.signatures
        ],
        "platform": PLATFORM,
        "inputs": [_describe(spec) for spec in runner.spec.inputs],
        "outputs": _outputs(runner),
    }


def _outputs(runner: SignatureRunner) -> list[dict[str, Any]]:
    outputs = [_describe(spec) for spec in runner.spec.outputs]
    if _gives_pixels(runner) and runner.image is not None:
        outputs.append(_tensor(PIXELS, "uint8", (*runner.image.shape[1:], channels(runner.image))))
    return outputs


def _gives_pixels(runner: SignatureRunner) -> bool:
    """True if `pixels` is added as an output: a graph's own output of that name comes first."""
    return runner.image is not None and all(spec.name != PIXELS for spec in runner.spec.outputs)


def _describe(spec: TensorSpec) -> dict[str, Any]:
    return _tensor(spec.name, *_wire(spec))


def _wire(spec: TensorSpec) -> tuple[str, Shape]:
    """Datatype and shape of a tensor as it is sent, without the batch axis."""
    return ("object", ()) if spec.kind == "text" else (spec.dtype, spec.shape)


def _tensor(name: str, dtype: str, shape: Shape) -> dict[str, Any]:
    sizes = [-1 if isinstance(size, str) else size for size in shape]
    return {"name": name, "datatype": DATATYPES[dtype], "shape": [-1, *sizes]}


async def infer(
    sampler: Sampler, context: RequestContext, request: InferenceCall
) -> InferenceResult:
    """Draw the inputs that are absent, run the signature, keep the requested outputs.

    Raises HTTPError 400, 404, 429 or 503.
    """
    runner, tensor_runner = runners(sampler, request.model, request.version)
    context.metrics = runner.metrics
    names = _output_names(runner, request.outputs)
    only_pixels = names == [PIXELS] and _gives_pixels(runner)
    chosen = runner if only_pixels else tensor_runner
    parameters = RequestParameters.parse(request.parameters, runner)
    stop = text_codec.check_stop(parameters.stop, chosen)
    n, values = _num_samples(sampler, chosen, request.inputs, parameters)
    chosen = _sized(chosen, request.inputs, parameters)
    prepare = partial(_prepare, sampler, context, chosen, parameters, request.inputs, stop)
    if request.inputs:
        sampling, inputs = await sampler.read(n, chosen, context, values, prepare)
    else:
        sampling, inputs = prepare()
    if sampling is not None:
        outputs = await sampler.run(sampling, context)
        headers = sampler.provenance_headers(sampling)
        drawn = {"seed": sampling.params.seed, "first_index": sampling.params.first_index}
    else:
        outputs = await sampler.infer(chosen, inputs, context, stop)
        headers, drawn = sampler.model_headers(chosen), {}
    manifest = runner.artifact.manifest
    return InferenceResult(
        model=model_name(runner),
        version=manifest.version,
        parameters={**drawn, "digest": manifest.digest, "reproducibility": chosen.level},
        outputs={name: _to_wire(runner, name, outputs[name], stop) for name in names},
        headers=headers,
    )


def _to_wire(
    runner: SignatureRunner, name: str, array: NDArray[Any], stop: text_codec.Stop | None
) -> NDArray[Any]:
    """An output as it is sent: tokens become texts."""
    spec = next((spec for spec in runner.spec.outputs if spec.name == name), None)
    if spec is None or spec.kind != "text":
        return array
    return np.array(text_codec.decode_texts(spec, array, stop), object)


def _output_names(runner: SignatureRunner, asked: Sequence[str]) -> list[str]:
    known = [output["name"] for output in _outputs(runner)]
    for name in asked:
        if name not in known:
            raise HTTPError(
                400,
                "unknown_output",
                f"{model_name(runner)} gives no output {name[:100]!r},"
                f" it gives: {', '.join(known)}",
            )
    _refuse_duplicates("output", asked)
    return list(asked) or known


def _refuse_duplicates(what: Literal["input", "output"], names: Sequence[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        code: Code = "duplicate_input" if what == "input" else "duplicate_output"
        raise HTTPError(400, code, f"{what} {twice!r} is named twice")


def _num_samples(
    sampler: Sampler,
    runner: SignatureRunner,
    inputs: Sequence[LazyTensor],
    parameters: RequestParameters,
) -> tuple[int, int]:
    """Number of samples, and of values in the inputs: sizes are checked before anything is read.

    Raises HTTPError 400.
    """
    n = parameters.n
    specs = {spec.name: spec for spec in runner.spec.inputs}
    for one in inputs:
        if one.name not in specs:
            known = ", ".join(specs) or "none"
            raise HTTPError(
                400,
                "unknown_input",
                f"{model_name(runner)} takes no input {one.name[:100]!r}, it takes: {known}",
            )
        _check_tensor(one, specs[one.name], runner)
    _refuse_duplicates("input", [one.name for one in inputs])
    rows = {one.shape[0] for one in inputs} | (set() if n is None else {n})
    if len(rows) > 1:
        sizes = [f"{one.name} has {one.shape[0]}" for one in inputs]
        sizes += [] if n is None else [f"n is {n}"]
        raise HTTPError(400, "n_differs", f"one n for all of a request: {', '.join(sizes)}")
    size = next(iter(rows), 1)
    sampler.check_n(size, _sized(runner, inputs, parameters))
    # The length of texts is known only once they are read.
    each = (_TEXT_VALUES if specs[one.name].kind == "text" else prod(one.shape) for one in inputs)
    return size, sum(each)


def _sized(
    runner: SignatureRunner, inputs: Sequence[LazyTensor], parameters: RequestParameters
) -> SignatureRunner:
    """The runner at the sizes of a request. Raises HTTPError 400 where they contradict."""
    if not runner.spec.axes:
        return runner
    try:
        found = runner.spec.sizes_of({one.name: one.shape[1:] for one in inputs})
    except SizeError as error:
        raise HTTPError(400, "wrong_shape", f"{error}") from None
    for name, size in parameters.sizes.items():
        if found.setdefault(name, size) != size:
            message = f"{name} is {found[name]} by the inputs, so it cannot be {size}"
            raise HTTPError(400, "no_effect", message)
    return runner.at(check_sizes(found, runner))


def _prepare(
    sampler: Sampler,
    context: RequestContext,
    runner: SignatureRunner,
    parameters: RequestParameters,
    inputs: Sequence[LazyTensor],
    stop: text_codec.Stop | None,
) -> tuple[SamplingRequest | None, Arrays]:
    """The samples to draw from the seed, or all inputs to run. Raises HTTPError 400."""
    arrays = _read(runner, inputs)
    sampling = _build_request(sampler, context, runner, parameters, arrays, stop)
    return sampling, arrays if sampling is not None else _complete(runner, parameters, arrays)


def _read(runner: SignatureRunner, inputs: Sequence[LazyTensor]) -> Arrays:
    """Decode the inputs; their shapes are checked already."""
    specs = {spec.name: spec for spec in runner.spec.inputs}
    arrays: Arrays = {}
    for one in inputs:
        spec = specs[one.name]
        by_name = spec.kind == "label" and one.datatype == DATATYPES["object"]
        array = one.read(np.dtype("object" if by_name else _wire(spec)[0]), one.shape)
        if by_name:
            array = np.array(resolve_label(array.tolist(), runner), np.int64)
        elif spec.kind == "text":
            array = text_codec.encode_texts(spec, array.tolist(), one.name)
        elif array.dtype.kind == "f" and not np.isfinite(array).all():
            message = f"input {one.name!r} holds values that are not finite"
            raise HTTPError(400, "not_finite", message)
        arrays[one.name] = array
    return arrays


def _check_tensor(tensor: LazyTensor, spec: TensorSpec, runner: SignatureRunner) -> None:
    dtype, shape = _wire(spec)
    datatype = DATATYPES[dtype]
    by_name = spec.kind == "label" and tensor.datatype == DATATYPES["object"]
    if tensor.datatype != datatype and not by_name:
        raise HTTPError(
            400,
            "wrong_datatype",
            f"input {spec.name!r} must be {datatype}, got {tensor.datatype[:100]!r}",
        )
    if spec.is_free and spec.kind != "text":
        try:
            solved(runner.spec.reach, shape, tensor.shape[1:])
        except SizeError as error:
            raise HTTPError(400, "wrong_shape", f"input {spec.name!r}: {error}") from None
    elif len(tensor.shape) != 1 + len(shape) or tensor.shape[1:] != shape:
        sizes = ", ".join(str(size) for size in tensor.shape[:10])
        raise HTTPError(
            400,
            "wrong_shape",
            f"input {spec.name!r} must have shape [{', '.join(('n', *map(str, shape)))}],"
            f" got [{sizes[:200]}]",
        )


def _build_request(
    sampler: Sampler,
    context: RequestContext,
    runner: SignatureRunner,
    parameters: RequestParameters,
    inputs: Arrays,
    stop: text_codec.Stop | None,
) -> SamplingRequest | None:
    """The samples to draw from the seed; None if the inputs are to be run as they are."""
    signature = runner.spec
    label = signature.label.name if signature.label is not None else None
    if label in inputs and parameters.label is not None:
        message = "label is given as an input and as a parameter; give it once"
        raise HTTPError(400, "label_twice", message)
    chosen = _settings_of(runner, parameters, inputs)
    all_given = len(inputs) == len(signature.inputs)
    if not signature.drawable or all_given or not inputs.keys() <= {label, *chosen}:
        return None
    labels = parameters.label if label not in inputs else inputs[label].tolist()
    rows = next((len(array) for array in inputs.values()), parameters.n)
    return sampler.build_request(
        runner,
        n=1 if rows is None else rows,
        seed=context.seed(parameters.seed),
        first_index=parameters.first_index or 0,
        label=labels,
        settings={**parameters.settings, **chosen},
        sizes=parameters.sizes,
        stopping_criterion=stop,
    )


def _settings_of(
    runner: SignatureRunner, parameters: RequestParameters, inputs: Arrays
) -> dict[str, Sequence[float]]:
    """Settings among the inputs. Raises HTTPError 400 for a value out of range or given twice."""
    chosen: dict[str, Sequence[float]] = {}
    for spec in runner.spec.inputs:
        if spec.kind == "setting" and spec.name in inputs:
            if spec.name in parameters.settings:
                message = f"{spec.name} is given as an input and as a parameter; give it once"
                raise HTTPError(400, "setting_twice", message)
            chosen[spec.name] = inputs[spec.name].tolist()
            for value in set(chosen[spec.name]):
                check_settings({spec.name: value}, runner)
    return chosen


def _complete(runner: SignatureRunner, parameters: RequestParameters, inputs: Arrays) -> Arrays:
    """All inputs of a run for which nothing is drawn; label and settings may be parameters.

    Raises HTTPError 400 for an input that is missing, out of range, or without effect.
    """
    name = model_name(runner)
    label = runner.spec.label
    n = len(next(iter(inputs.values()), ()))
    if n:
        check_label(parameters.label, n, runner)
    if n and label is not None and label.name not in inputs and parameters.label is not None:
        inputs = {**inputs, label.name: np.full(n, parameters.label, np.int64)}
    inputs |= {name: np.full(n, value) for name, value in parameters.settings.items()}
    optional = runner.spec.optional
    has_optional = any(spec.name in inputs for spec in optional)
    # Of optional inputs, with the flags that say which are there, one is enough.
    dispensable = (
        {name for spec in optional for name in (spec.name, spec.presence)}
        if has_optional
        else set()
    )
    missing = [
        spec.name
        for spec in runner.spec.inputs
        if spec.name not in inputs and spec.default is None and spec.name not in dispensable
    ]
    if missing:
        raise HTTPError(
            400,
            "missing_input",
            f"{name} needs {', '.join(missing)} as input: nothing is drawn"
            + (" beside a latent that is given" if runner.spec.drawable else " for it"),
        )
    for parameter in ("seed", "first_index"):
        if getattr(parameters, parameter) is not None:
            message = f"{parameter} has no effect: all that {name} takes is given"
            raise HTTPError(400, "no_effect", message)
    if label is not None:
        check_label(inputs[label.name].tolist(), n, runner)
    return inputs
