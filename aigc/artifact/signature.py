"""Signatures: the ways to call a model, and the tensors that each takes and gives."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import msgspec

from aigc.artifact.axes import (
    MAX_PLACES,
    Axis,
    Shape,
    SizeError,
    Sizes,
    check_axes,
    describe,
    free_positions,
    shape_at,
    solved,
)
from aigc.artifact.axes import label as label_of
from aigc.artifact.preprocessing import (
    AudioPreprocessing,
    ImagePreprocessing,
    Preprocessing,
    TextPreprocessing,
)
from aigc.artifact.tiling import MAX_SIDE, Chunk, Tile, Tiling, check_chunk, check_tile, reachable
from aigc.artifact.tiling import MAX_VALUES as MAX_TILED_VALUES

MAX_CLASSES = 1 << 31
MAX_VALUES = 1 << 31
"""Most numbers in one sample's tensor."""

Kind = Literal[
    "latent",
    "label",
    "image",
    "audio",
    "vector",
    "text",
    "token",
    "uniform",
    "setting",
    "presence",
]

TILED = ("image",)
"""Kinds of outputs that can be made of tiles, beside codes."""
CHUNKED = ("audio", "vector")
"""Kinds of outputs that can be made of chunks."""
DRAWN = ("latent", "uniform", "label", "setting")
"""Kinds of inputs that are drawn from a seed or have defaults."""


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One input or output of a signature; the batch axis comes first and is not in `shape`."""

    name: str
    kind: Kind
    """latent: standard normal, drawn from the seed. uniform: in [0, 1), drawn from the seed. label:
    class index. image: (C, H, W). audio: (channels, samples). text: token ids, 0 from the end on.
    token: one of them. setting: a number that the caller may choose. presence: 1 where an optional
    input is given, 0 where it is not."""
    dtype: Literal["float32", "int64"]
    shape: Shape
    """Its sizes; a str is an expression of one of the signature's axes, such as `8*h`."""
    range: tuple[float, float] | None = None
    """Smallest and largest value, both included; None if unbounded."""
    classes: tuple[str, ...] = ()
    """Class names of a label, in the order of their indices."""
    vocabulary: tuple[str, ...] = ()
    """String of each token of a text; the first is the end."""
    default: float | None = None
    """Value of a setting that is not given."""
    sample_rate_hz: int = 0
    """Sample rate of audio; 0 for other kinds."""
    presence: str = ""
    """Name of the input of kind presence that says for each row whether this optional input is
    given; empty for required ones. Rows in which it is not given hold zeros, which have no effect.
    """
    preprocessing: Preprocessing | msgspec.UnsetType = msgspec.UNSET
    """Conversion of a file or text to the numbers of an image, audio or text. Unset in older
    artifacts, which use preprocessing.LEGACY_IMAGE, LEGACY_AUDIO and LEGACY_TEXT."""

    @property
    def drawn(self) -> bool:
        """True if a caller need not give it: it comes from a seed or has a default."""
        return self.kind in DRAWN

    @property
    def is_codes(self) -> bool:
        """True of numbers of codes, such as the tokens of a picture: of two that are equally near,
        another machine may take the other."""
        return self.kind == "vector" and self.dtype == "int64"

    @cached_property
    def is_free(self) -> bool:
        """True if its shape has free axes."""
        return any(isinstance(size, str) for size in self.shape)

    @cached_property
    def fixed_shape(self) -> tuple[int, ...]:
        """The shape of a tensor without free axes, as all are in Signature.at()."""
        assert not self.is_free, f"{self.name} has the free shape {self.shape}"
        return self.shape  # type: ignore[return-value]

    @property
    def num_values(self) -> int:
        """Numbers in one sample's tensor, which has no free axes."""
        return math.prod(self.fixed_shape)


@dataclass(frozen=True, kw_only=True)
class Signature:
    """One way to call a model: a graph with typed inputs and outputs.

    A signature that generates some modalities from others has optional inputs, such as `translate`:
    `image`, `text` and `audio` with the flags `image_given`, `text_given`, `audio_given`, and
    noise; outputs are `new_image`, `new_text`, `new_audio`, always all of them. At least one input
    must be given. `ArtifactSpec.draw(signature, seed, indices, given={"text": tokens})` completes
    the inputs, so that rows with different inputs can share a batch.
    """

    graph: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    step: str = ""
    """Signature of one step of this autoregressive one, run from token to token by
    artifact/autoregressive.py; both have the same graph."""
    axes: dict[str, Axis] = field(default_factory=dict)
    """Free axes by name, in whose terms shapes of inputs and outputs may be written."""
    tile: Tile | msgspec.UnsetType = msgspec.UNSET
    """Tiles of which images beyond the bounds of the axes are made; unset if there are none."""
    chunk: Chunk | msgspec.UnsetType = msgspec.UNSET
    """Chunks of which sounds beyond the bound of the axis are made; unset if there are none."""

    def at(self, sizes: Sizes) -> "Signature":
        """The signature at sizes of all of its axes: the same, without free axes."""
        if not self.axes:
            return self
        inputs, outputs = (
            tuple(replace(spec, shape=shape_at(spec.shape, sizes)) for spec in specs)
            for specs in (self.inputs, self.outputs)
        )
        unset = msgspec.UNSET
        return replace(self, inputs=inputs, outputs=outputs, axes={}, tile=unset, chunk=unset)

    @property
    def parts(self) -> Tile | None:
        """Tiles or chunks of samples beyond the bounds of the axes; None if there are none."""
        return self.tile or (self.chunk.tile if self.chunk else None)

    @property
    def reach(self) -> Mapping[str, Axis]:
        """The axes with all sizes that may be asked for, those that are made of parts included."""
        parts = self.parts
        if parts is None:
            return self.axes
        return reachable(self.axes, parts, MAX_SIDE if self.tile else MAX_TILED_VALUES)

    @property
    def shapes(self) -> tuple[dict[str, Shape], dict[str, Shape]]:
        """Shapes of the inputs and of the outputs by name."""
        inputs, outputs = (
            {spec.name: spec.shape for spec in specs} for specs in (self.inputs, self.outputs)
        )
        return inputs, outputs

    def tiling(self, sizes: Sizes) -> Tiling | None:
        """The tiles of samples of these sizes; None where one run makes all of it."""
        parts = self.parts
        if parts is None or all(sizes[name] <= self.axes[name].max for name in parts.overlap):
            return None
        return Tiling(self.axes, parts, sizes)

    def sizes(self, chosen: Sizes) -> dict[str, int]:
        """Sizes of all axes: those chosen, else the default. Raises SizeError."""
        for name, size in chosen.items():
            if name not in self.axes:
                known = ", ".join(self.axes) or "none, its sizes are fixed"
                raise SizeError(f"it has no axis {name[:60]!r}; it has: {known}")
            self.reach[name].check(name, size)
        sizes = {name: chosen.get(name, axis.default) for name, axis in self.axes.items()}
        if self.tiling(sizes) and (values := self.at(sizes).num_values) > MAX_TILED_VALUES:
            raise SizeError(
                f"a sample of {label_of(sizes)} has {values:,} numbers, of which at most"
                f" {MAX_TILED_VALUES:,} are allowed"
            )
        return sizes

    def sizes_of(
        self, shapes: Mapping[str, tuple[int, ...]], specs: "tuple[TensorSpec, ...] | None" = None
    ) -> dict[str, int]:
        """Sizes of the axes that follow from shapes of inputs without the batch axis, by name.

        Raises SizeError for sizes that the axes do not allow, and where two inputs disagree.
        """
        sizes: dict[str, int] = {}
        said: dict[str, str] = {}
        for spec in self.inputs if specs is None else specs:
            if not spec.is_free or spec.name not in shapes:
                continue
            try:
                found = solved(self.reach, spec.shape, shapes[spec.name])
            except SizeError as error:
                raise SizeError(f"{spec.name}: {error}", spec.name) from None
            for name, size in found.items():
                if sizes.setdefault(name, size) != size:
                    raise SizeError(
                        f"inputs must agree on {name}: {said[name]} gives {sizes[name]},"
                        f" {spec.name} {size}",
                        spec.name,
                    )
                said[name] = spec.name
        return sizes

    @property
    def smallest(self) -> dict[str, int]:
        """The smallest size of every axis."""
        return {name: axis.min for name, axis in self.axes.items()}

    @property
    def largest(self) -> dict[str, int]:
        """The largest size of every axis."""
        return {name: axis.max for name, axis in self.axes.items()}

    def cost(self, sizes: Sizes) -> float:
        """Numbers in a sample of these sizes beside those in one of the default sizes.

        A measure of the time and memory that it takes, exact for convolutions.
        """
        return self.at(sizes).num_values / self.at(self.sizes({})).num_values if self.axes else 1.0

    def max_batch(self, sizes: Sizes, most: int) -> int:
        """Largest batch at these sizes where `most` is that of the default sizes: at least 1."""
        return max(1, min(most, int(most / self.cost(sizes)))) if self.axes else most

    @property
    def num_values(self) -> int:
        """Numbers in all inputs and outputs of a sample, for a signature without free axes."""
        return sum(spec.num_values for spec in (*self.inputs, *self.outputs))

    @property
    def drawable(self) -> bool:
        """True if a seed (and a label) determines all inputs."""
        return all(spec.drawn for spec in self.inputs)

    @property
    def label(self) -> TensorSpec | None:
        """The label input, if the signature has one."""
        return next((spec for spec in self.inputs if spec.kind == "label"), None)

    @property
    def seeded(self) -> bool:
        """True if a seed changes an input other than the label."""
        return any(spec.kind in ("latent", "uniform") for spec in self.inputs)

    @property
    def given(self) -> tuple[TensorSpec, ...]:
        """The inputs that are neither drawn nor flags: a caller gives them."""
        return tuple(spec for spec in self.inputs if not spec.drawn and spec.kind != "presence")

    @property
    def optional(self) -> tuple[TensorSpec, ...]:
        """The inputs of which at least one must be given; none for most signatures."""
        return tuple(spec for spec in self.inputs if spec.presence)


_PREPROCESSING = {
    "image": ImagePreprocessing,
    "audio": AudioPreprocessing,
    "text": TextPreprocessing,
}


def check_signature(name: str, signature: Signature) -> None:
    """Raise ValueError unless the tensors and axes of a signature fit together."""
    _check_free(name, signature)
    most = signature.at(signature.largest)
    specs = (*most.inputs, *most.outputs)
    if any(size < 1 for spec in specs for size in spec.fixed_shape):
        raise ValueError(f"signature {name!r} has a tensor with an empty axis")
    for spec in specs:
        _check_spec(name, spec)
    named = sorted(spec.presence for spec in specs if spec.presence)
    flags = sorted(spec.name for spec in signature.inputs if spec.kind == "presence")
    if named != flags:
        raise ValueError(
            f"optional inputs of signature {name!r} have the presences {named}, its inputs of that"
            f" kind are {flags}"
        )
    if signature.label is not None and signature.label.range is None:
        raise ValueError(f"label {signature.label.name!r} of signature {name!r} has no range")


_FREE_KINDS = {"latent": 0, "uniform": 0, "vector": 0, "image": 3, "audio": 2}
"""Kinds whose shapes may have free axes, and the number of their axes; 0 for any number."""


def _check_free(name: str, signature: Signature) -> None:
    """Raise ArtifactError unless the free axes of a signature fit together."""
    inputs, outputs = signature.shapes
    try:
        check_axes(signature.axes, inputs, outputs)
        if signature.tile:
            check_tile(signature.tile, signature.axes, inputs, outputs)
        if signature.chunk:
            check_chunk(signature.chunk, signature.axes, inputs, outputs)
    except ValueError as error:
        raise ValueError(f"signature {name!r}: {error}") from None
    if signature.tile and not all(
        spec.kind in TILED or spec.is_codes for spec in signature.outputs
    ):
        raise ValueError(f"signature {name!r} gives more than images and codes: no tiles")
    if signature.chunk and any(spec.kind not in CHUNKED for spec in signature.outputs):
        raise ValueError(f"signature {name!r} gives more than sounds and vectors: no chunks")
    if signature.axes and signature.step:
        raise ValueError(f"signature {name!r} goes by steps, so its axes cannot be free")
    for spec in (*signature.inputs, *signature.outputs):
        if not spec.is_free:
            continue
        what = f"{spec.kind} {spec.name!r} of signature {name!r} has the shape"
        num_axes = _FREE_KINDS.get(spec.kind)
        if num_axes is None:
            raise ValueError(f"{what} {describe(spec.shape)}; that of a {spec.kind} is fixed")
        if num_axes and (len(spec.shape) != num_axes or isinstance(spec.shape[0], str)):
            raise ValueError(
                f"{what} {describe(spec.shape)}; it must have {num_axes} axes beside the batch, the"
                " first of them a fixed number of channels"
            )
        if spec.drawn and len(free_positions(spec.shape)) > MAX_PLACES:
            raise ValueError(
                f"{what} {describe(spec.shape)}; at most {MAX_PLACES} axes of what is drawn from a"
                " seed are free"
            )


def _check_spec(signature: str, spec: TensorSpec) -> None:
    span = spec.range
    what = f"{spec.kind} {spec.name!r} of signature {signature!r}"
    if span is not None and not (-math.inf < span[0] <= span[1] < math.inf):
        raise ValueError(f"{what} has the range {span}, which is none")
    if spec.kind == "label" and span is not None and not (span[0] == 0 and span[1] < MAX_CLASSES):
        raise ValueError(f"{what} has the range {span}; classes count from 0 to {MAX_CLASSES}")
    if spec.num_values > MAX_VALUES:
        raise ValueError(f"{what} has more than {MAX_VALUES:,} values")
    if spec.kind in ("text", "token", "setting") and span is None:
        raise ValueError(f"{what} has no range")
    if spec.vocabulary and span is not None and span != (0, len(spec.vocabulary) - 1):
        raise ValueError(f"{what} has {len(spec.vocabulary)} pieces for the ids {span}")
    if spec.kind == "presence" and (spec.shape or spec.range != (0, 1)):
        raise ValueError(f"{what} is no number from 0 to 1 for each row")
    if spec.kind == "setting" and spec.default is None:
        raise ValueError(f"{what} has no default")
    allowed = _PREPROCESSING.get(spec.kind)
    if spec.preprocessing and (allowed is None or not isinstance(spec.preprocessing, allowed)):
        raise ValueError(f"{what} has a preprocessing of another kind")
