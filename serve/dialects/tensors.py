"""What both wires of the Open Inference Protocol share: models, tensors, parameters, inference.

    request = Request(model="digits", version="", parameters={"seed": 7, "n": 4}, inputs=[])
    answer = await infer(sampler, call, request)            # answer.outputs["image"] (4, 1, 28, 28)

A signature is a model of the protocol: `digits` is the signature "sample" of the artifact digits,
`digits:encode` its signature "encode" (no artifact's name has a colon). Versions are the
artifact's; without one the newest answers.

Tensors are the manifest's, the batch axis first. A signature that gives an image gives it once
more as `pixels`, (N, H, W, C) uint8, which is what the other dialects send. Whoever asks for
pixels alone shares batches with them; floats run in a lane of their own. A text is BYTES, (N,), not
its tokens. Settings may be left out, be parameters for all samples, or inputs with one for each.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc.artifact import TensorSpec
from serve.ask import Ask, check_label, check_settings
from serve.batching import Arrays
from serve.call import Call
from serve.dialects import texts
from serve.dialects.tensor_bytes import DATATYPES
from serve.http import Headers, HTTPError
from serve.lane import PIXELS, SignatureLane
from serve.sampling import Sampler

EXTENSIONS = ("binary_tensor_data", "parameters")
PLATFORM = "onnxruntime_onnx"
SAMPLE = "sample"
_LONG = 1 << 24
"""Values that texts count as before they are read."""


@dataclass(frozen=True, kw_only=True)
class Given:
    """An input tensor as it arrived, not yet read."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    read: "Callable[[np.dtype[Any], tuple[int, ...]], NDArray[Any]]"
    """(dtype, shape) -> the array. Called for a shape that was found good; raises HTTPError."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One inference, as both wires put it."""

    model: str
    version: str
    """Empty for the newest."""
    parameters: Mapping[str, Any]
    inputs: Sequence[Given]
    outputs: Sequence[str] = ()
    """Names of those to send; empty for all."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of a request."""

    model: str
    version: str
    parameters: Mapping[str, str | int]
    """Where the tensors come from: digest, reproducibility, and seed and first_index if drawn."""
    outputs: Arrays
    """In the order asked for."""
    headers: Headers

    @property
    def values(self) -> int:
        """How many there are in all outputs."""
        return sum(array.size for array in self.outputs.values())


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The parameters of a request: which samples of which seed. None where not given."""

    seed: int | None = None
    first_index: int | None = None
    n: int | None = None
    label: int | None = None
    stop: str | None = None
    """What ends texts early."""
    settings: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def parse(cls, parameters: Mapping[str, Any], lane: SignatureLane) -> "Sampling":
        """Raises HTTPError 400 for a parameter that there is not, or of the wrong type."""
        settings = [spec.name for spec in lane.spec.inputs if spec.kind == "setting"]
        known = [*_WHOLE, *(["stop", *settings] if settings else [])]
        for name, value in parameters.items():
            if name not in known:
                raise HTTPError(
                    400,
                    "unknown_parameter",
                    f"unknown parameter {name[:100]!r}; there are: {', '.join(known)}",
                )
            wanted, what = (str, "a text") if name == "stop" else (int, "a whole number")
            if name not in settings and type(value) is not wanted:
                raise HTTPError(
                    400,
                    "malformed_parameter",
                    f"parameter {name} must be {what}, got {str(value)[:100]!r}",
                )
        chosen = {name: value for name, value in parameters.items() if name in settings}
        check_settings(chosen, lane)
        rest = {name: value for name, value in parameters.items() if name not in settings}
        return cls(**rest, settings=chosen)


_WHOLE = ("seed", "first_index", "n", "label")


def lanes(sampler: Sampler, model: str, version: str) -> tuple[SignatureLane, SignatureLane]:
    """The lanes of a model that give pixels, and all tensors. Raises HTTPError 404."""
    name, colon, signature = model.partition(":")
    reference = f"{name}@{version}" if version else name
    lane = sampler.lane(reference, signature if colon else SAMPLE)
    return lane, sampler.find(reference).tensors[lane.name]


def model_name(lane: SignatureLane) -> str:
    """What the protocol calls a signature."""
    name = lane.artifact.manifest.name
    return name if lane.name == SAMPLE else f"{name}:{lane.name}"


def describe(sampler: Sampler, model: str, version: str) -> dict[str, Any]:
    """The metadata of a model: JSON, and the fields of the message. Raises HTTPError 404."""
    lane, _ = lanes(sampler, model, version)
    name = lane.artifact.manifest.name
    manifests = [one.artifact.manifest for one in sampler.hosted().all]
    return {
        "name": model_name(lane),
        "versions": [m.version for m in manifests if m.name == name and lane.name in m.signatures],
        "platform": PLATFORM,
        "inputs": [_described(spec) for spec in lane.spec.inputs],
        "outputs": _outputs(lane),
    }


def _outputs(lane: SignatureLane) -> list[dict[str, Any]]:
    outputs = [_described(spec) for spec in lane.spec.outputs]
    if _gives_pixels(lane) and lane.image is not None:
        channels, height, width = lane.image.shape
        outputs.append(_tensor(PIXELS, "uint8", (height, width, channels)))
    return outputs


def _gives_pixels(lane: SignatureLane) -> bool:
    """Whether pixels are an output of their own: an output of the graph keeps its name."""
    return lane.image is not None and all(spec.name != PIXELS for spec in lane.spec.outputs)


def _described(spec: TensorSpec) -> dict[str, Any]:
    return _tensor(spec.name, *_wire(spec))


def _wire(spec: TensorSpec) -> tuple[str, tuple[int, ...]]:
    """Type and shape of a tensor without its batch axis, as it is sent."""
    return ("object", ()) if spec.kind == "text" else (spec.dtype, spec.shape)


def _tensor(name: str, dtype: str, shape: tuple[int, ...]) -> dict[str, Any]:
    return {"name": name, "datatype": DATATYPES[dtype], "shape": [-1, *shape]}


async def infer(sampler: Sampler, call: Call, request: Request) -> Answer:
    """Draw what is not given, run the signature, keep the outputs asked for.

    Raises HTTPError 400, 404, 429 or 503.
    """
    lane, tensors = lanes(sampler, request.model, request.version)
    call.metrics = lane.metrics
    names = _wanted(lane, request.outputs)
    if names == [PIXELS] and _gives_pixels(lane):
        tensors = lane
    sampling = Sampling.parse(request.parameters, lane)
    stop = texts.check_stop(sampling.stop, tensors)
    n, values = _num_given(sampler, tensors, request.inputs, sampling.n)
    prepare = partial(_prepared, sampler, call, tensors, sampling, request.inputs)
    if request.inputs:
        ask, inputs = await sampler.read(n, tensors, call, values, prepare)
    else:
        ask, inputs = prepare()
    if ask is not None:
        outputs = await sampler.run(replace(ask, until=stop), call)
        headers = sampler.signed(ask)
        drawn = {"seed": ask.seed, "first_index": ask.first_index}
    else:
        outputs = await sampler.infer(tensors, inputs, call, stop)
        headers, drawn = sampler.model_headers(tensors), {}
    manifest = lane.artifact.manifest
    return Answer(
        model=model_name(lane),
        version=manifest.version,
        parameters={**drawn, "digest": manifest.digest, "reproducibility": tensors.level},
        outputs={name: _sent(lane, name, outputs[name], stop) for name in names},
        headers=headers,
    )


def _sent(
    lane: SignatureLane, name: str, array: NDArray[Any], stop: texts.Stop | None
) -> NDArray[Any]:
    """An output as it is sent: a text in place of its tokens."""
    spec = next((spec for spec in lane.spec.outputs if spec.name == name), None)
    if spec is None or spec.kind != "text":
        return array
    return np.array(texts.read(spec, array, stop), object)


def _wanted(lane: SignatureLane, asked: Sequence[str]) -> list[str]:
    known = [output["name"] for output in _outputs(lane)]
    for name in asked:
        if name not in known:
            raise HTTPError(
                400,
                "unknown_output",
                f"{model_name(lane)} gives no output {name[:100]!r}, it gives: {', '.join(known)}",
            )
    _refuse_twice("output", asked)
    return list(asked) or known


def _refuse_twice(what: str, names: Sequence[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise HTTPError(400, f"duplicate_{what}", f"{what} {twice!r} is named twice")


def _num_given(
    sampler: Sampler, lane: SignatureLane, inputs: Sequence[Given], n: int | None
) -> tuple[int, int]:
    """How many samples are asked for, and values given: every size checked before any is read.

    Raises HTTPError 400.
    """
    specs = {spec.name: spec for spec in lane.spec.inputs}
    for one in inputs:
        if one.name not in specs:
            known = ", ".join(specs) or "none"
            raise HTTPError(
                400,
                "unknown_input",
                f"{model_name(lane)} takes no input {one.name[:100]!r}, it takes: {known}",
            )
        _check_tensor(one, specs[one.name])
    _refuse_twice("input", [one.name for one in inputs])
    rows = {one.shape[0] for one in inputs} | (set() if n is None else {n})
    if len(rows) > 1:
        found = [f"{one.name} has {one.shape[0]}" for one in inputs]
        found += [] if n is None else [f"n is {n}"]
        raise HTTPError(400, "n_differs", f"one n for all of a request: {', '.join(found)}")
    size = next(iter(rows), 1)
    sampler.check_n(size, lane)
    # How long texts are shows when they are read.
    each = (_LONG if specs[one.name].kind == "text" else prod(one.shape) for one in inputs)
    return size, sum(each)


def _prepared(
    sampler: Sampler,
    call: Call,
    lane: SignatureLane,
    sampling: Sampling,
    inputs: Sequence[Given],
) -> tuple[Ask | None, Arrays]:
    """What is to be drawn from the seed, or all inputs that are to be run. Raises HTTPError 400."""
    given = _read(lane, inputs)
    ask = _ask(sampler, call, lane, sampling, given)
    return ask, given if ask is not None else _complete(lane, sampling, given)


def _read(lane: SignatureLane, inputs: Sequence[Given]) -> Arrays:
    """The arrays of the inputs, whose shapes were checked."""
    specs = {spec.name: spec for spec in lane.spec.inputs}
    arrays: Arrays = {}
    for one in inputs:
        spec = specs[one.name]
        array = one.read(np.dtype(_wire(spec)[0]), one.shape)
        if spec.kind == "text":
            array = texts.tokens(spec, array.tolist(), one.name)
        elif array.dtype.kind == "f" and not np.isfinite(array).all():
            message = f"input {one.name!r} holds values that are not finite"
            raise HTTPError(400, "not_finite", message)
        arrays[one.name] = array
    return arrays


def _check_tensor(given: Given, spec: TensorSpec) -> None:
    dtype, shape = _wire(spec)
    datatype = DATATYPES[dtype]
    if given.datatype != datatype:
        raise HTTPError(
            400,
            "wrong_datatype",
            f"input {spec.name!r} must be {datatype}, got {given.datatype[:100]!r}",
        )
    if len(given.shape) != 1 + len(shape) or given.shape[1:] != shape:
        found = ", ".join(str(size) for size in given.shape[:10])
        raise HTTPError(
            400,
            "wrong_shape",
            f"input {spec.name!r} must have shape [{', '.join(('n', *map(str, shape)))}],"
            f" got [{found[:200]}]",
        )


def _ask(
    sampler: Sampler, call: Call, lane: SignatureLane, sampling: Sampling, given: Arrays
) -> Ask | None:
    """What is to be drawn from the seed; None if the inputs given are to be run."""
    signature = lane.spec
    label = signature.label.name if signature.label is not None else None
    if label in given and sampling.label is not None:
        message = "label is given as an input and as a parameter; give it once"
        raise HTTPError(400, "label_twice", message)
    chosen = _settings_of(lane, sampling, given)
    everything = len(given) == len(signature.inputs)
    if not signature.drawable or everything or not given.keys() <= {label, *chosen}:
        return None
    labels = sampling.label if label not in given else given[label].tolist()
    rows = next((len(array) for array in given.values()), sampling.n)
    ask = sampler.ask(
        model=lane.artifact.id,
        signature=lane.name,
        n=1 if rows is None else rows,
        seed=call.seed(sampling.seed),
        first_index=sampling.first_index or 0,
        label=labels,
    )
    return replace(ask, lane=lane, settings={**sampling.settings, **chosen})


def _settings_of(
    lane: SignatureLane, sampling: Sampling, given: Arrays
) -> dict[str, Sequence[float]]:
    """The settings among the inputs. Raises HTTPError 400 for those out of range, or said twice."""
    chosen: dict[str, Sequence[float]] = {}
    for spec in lane.spec.inputs:
        if spec.kind == "setting" and spec.name in given:
            if spec.name in sampling.settings:
                message = f"{spec.name} is given as an input and as a parameter; give it once"
                raise HTTPError(400, "setting_twice", message)
            chosen[spec.name] = given[spec.name].tolist()
            for value in set(chosen[spec.name]):
                check_settings({spec.name: value}, lane)
    return chosen


def _complete(lane: SignatureLane, sampling: Sampling, given: Arrays) -> Arrays:
    """All inputs of a signature that nothing is drawn for, its label from the parameter if need be.

    Raises HTTPError 400 for what is missing, out of range, or has no effect.
    """
    name = model_name(lane)
    label = lane.spec.label
    n = len(next(iter(given.values()), ()))
    if n:
        check_label(sampling.label, n, lane)
    if n and label is not None and label.name not in given and sampling.label is not None:
        given = {**given, label.name: np.full(n, sampling.label, np.int64)}
    given |= {name: np.full(n, value) for name, value in sampling.settings.items()}
    optional = lane.spec.optional
    one_there = any(spec.name in given for spec in optional)
    left_out = {name for spec in optional for name in (spec.name, spec.presence) if one_there}
    missing = [
        spec.name
        for spec in lane.spec.inputs
        if spec.name not in given and spec.default is None and spec.name not in left_out
    ]
    if missing:
        raise HTTPError(
            400,
            "missing_input",
            f"{name} needs {', '.join(missing)} as input: nothing is drawn"
            + (" beside a latent that is given" if lane.spec.drawable else " for it"),
        )
    for parameter in ("seed", "first_index"):
        if getattr(sampling, parameter) is not None:
            message = f"{parameter} has no effect: all that {name} takes is given"
            raise HTTPError(400, "no_effect", message)
    if label is not None:
        check_label(given[label.name].tolist(), n, lane)
    return given
