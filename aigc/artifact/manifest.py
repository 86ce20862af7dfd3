"""manifest.json: signatures, training facts, metrics and the hash of every file of an artifact."""

import hashlib
import json
import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import msgspec

from aigc.artifact.preprocessing import (
    AudioPreprocessing,
    ImagePreprocessing,
    Preprocessing,
    TextPreprocessing,
)
from aigc.files import write

FORMAT_VERSIONS = (1, 2)
"""Versions of the format that are read; needed_version() is the one that is written."""
MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
"""File of an artifact exported with --weights: the whole model, the averaged part averaged."""
SIGNATURE_FILE = "model.sig"
"""File of OpenSSF Model Signing, beside the manifest and signing it (artifact/signing.py)."""
UNSTATED = "unstated"
"""Licence of weights of which nobody said under which they may be used."""
IMPORTED = "imported"
"""Family of a model that was trained elsewhere."""
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
VERSION = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,3}")

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
Level = Literal["bit", "uint8", "tolerance"]


DRAWN = ("latent", "uniform", "label", "setting")
"""Kinds of inputs that are drawn from a seed or have defaults."""


class ArtifactError(ValueError):
    """An artifact cannot be opened, trusted or published; the message says why."""


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
    shape: tuple[int, ...]
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


@dataclass(frozen=True, kw_only=True)
class Reproducibility:
    """Equality of outputs over batch sizes and thread counts on one machine."""

    level: Level
    max_abs: float


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Distance between the graph and the torch module that it was exported from."""

    max_abs: float
    """Largest difference; for unbounded values relative to 1 + their size."""
    uint8_mismatch: float
    """Share of unsaturated uint8 pixels, or of texts, that differ; 0 for other outputs."""
    samples: int
    batch_sizes: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Training:
    """Origin of the weights."""

    config: dict[str, Any]
    samples: int
    data: dict[str, Any]
    wall_seconds: float
    workers: int
    cost: float | None = None
    """Cost of the training, if a price per worker hour was given."""


@dataclass(frozen=True, kw_only=True)
class File:
    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The contents of manifest.json."""

    name: str
    version: str
    family: str
    model: str
    preset: str
    created: str
    """ISO 8601, UTC."""
    licence: str
    signatures: dict[str, Signature]
    reproducibility: dict[str, Reproducibility]
    parity: dict[str, Parity]
    """By signature; empty for a graph that came as ONNX: there is no module to compare it with."""
    training: Training | None = None
    """None for an imported artifact: its model was trained elsewhere. Since format version 2."""
    metrics: dict[str, float] = field(default_factory=dict)
    files: dict[str, File] = field(default_factory=dict)
    """All files but the manifest, by path in the folder; empty until sealed."""
    format_version: int = 1
    digest: str = ""
    """digest() of the document; empty until sealed."""

    def __post_init__(self) -> None:
        check_name(self.name)
        check_version(self.version)
        for name in self.files:
            path = PurePosixPath(name)
            odd = "\\" in name or "\0" in name or not path.parts
            if path.is_absolute() or ".." in path.parts or odd:
                raise ArtifactError(f"file {name!r} of the manifest lies outside the artifact")
        for name, signature in self.signatures.items():
            if signature.graph not in self.files and self.files:
                raise ArtifactError(f"graph {signature.graph!r} of signature {name!r} is no file")
            specs = (*signature.inputs, *signature.outputs)
            if any(size < 1 for spec in specs for size in spec.shape):
                raise ArtifactError(f"signature {name!r} has a tensor with an empty axis")
            step = self.signatures.get(signature.step)
            if signature.step and (step is None or step.step or step.graph != signature.graph):
                raise ArtifactError(
                    f"signature {name!r} goes by steps of {signature.step!r}, which must be a"
                    " signature of the same graph"
                )
            for spec in specs:
                _check_spec(name, spec)
            named = sorted(spec.presence for spec in specs if spec.presence)
            flags = sorted(spec.name for spec in signature.inputs if spec.kind == "presence")
            if named != flags:
                raise ArtifactError(
                    f"optional inputs of signature {name!r} have the presences {named}, its inputs"
                    f" of that kind are {flags}"
                )
            if signature.label is not None and signature.label.range is None:
                raise ArtifactError(
                    f"label {signature.label.name!r} of signature {name!r} has no range"
                )

    @property
    def id(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"

    @property
    def source(self) -> str:
        """`model:preset` of a run, `imported:NAME` of a class or file of another project."""
        return f"{self.model}:{self.preset}" if self.training else f"{IMPORTED}:{self.model}"

    @property
    def offered(self) -> tuple[str, ...]:
        """Signatures that can be called: all that are not a step of another."""
        steps = {signature.step for signature in self.signatures.values()}
        return tuple(name for name in self.signatures if name not in steps)

    def default_signature(self, *, has_inputs: bool = False) -> str:
        """The signature of a request that names none, with or without given inputs.

        It is `sample`, beside inputs `translate`; if there is no such one, the only one that can be
        called so.
        """
        usual = "translate" if has_inputs else "sample"
        offered = self.offered
        if usual in offered or len(offered) == 1:
            return usual if usual in offered else offered[0]
        fits = [n for n in offered if self.signatures[n].drawable != has_inputs]
        return fits[0] if len(fits) == 1 else usual


_PREPROCESSING = {
    "image": ImagePreprocessing,
    "audio": AudioPreprocessing,
    "text": TextPreprocessing,
}


def _check_spec(signature: str, spec: TensorSpec) -> None:
    span = spec.range
    what = f"{spec.kind} {spec.name!r} of signature {signature!r}"
    if span is not None and not (-math.inf < span[0] <= span[1] < math.inf):
        raise ArtifactError(f"{what} has the range {span}, which is none")
    if spec.kind == "label" and span is not None and not (span[0] == 0 and span[1] < MAX_CLASSES):
        raise ArtifactError(f"{what} has the range {span}; classes count from 0 to {MAX_CLASSES}")
    if math.prod(spec.shape) > MAX_VALUES:
        raise ArtifactError(f"{what} has more than {MAX_VALUES:,} values")
    if spec.kind in ("text", "token", "setting") and span is None:
        raise ArtifactError(f"{what} has no range")
    if spec.vocabulary and span is not None and span != (0, len(spec.vocabulary) - 1):
        raise ArtifactError(f"{what} has {len(spec.vocabulary)} pieces for the ids {span}")
    if spec.kind == "presence" and (spec.shape or spec.range != (0, 1)):
        raise ArtifactError(f"{what} is no number from 0 to 1 for each row")
    if spec.kind == "setting" and spec.default is None:
        raise ArtifactError(f"{what} has no default")
    allowed = _PREPROCESSING.get(spec.kind)
    if spec.preprocessing and (allowed is None or not isinstance(spec.preprocessing, allowed)):
        raise ArtifactError(f"{what} has a preprocessing of another kind")


def needed_version(manifest: Manifest) -> int:
    """Lowest format version that has everything that a manifest uses."""
    return 2 if manifest.training is None else 1


def check_name(name: str) -> None:
    """Raise ArtifactError unless `name` may name an artifact."""
    if not NAME.fullmatch(name):
        raise ArtifactError(
            f"artifact name must be 1 to 64 of a-z 0-9 . _ - and start with a letter or digit,"
            f" got {name!r}"
        )


def check_version(version: str) -> None:
    """Raise ArtifactError unless `version` is 1 to 4 whole numbers joined by dots."""
    if not VERSION.fullmatch(version):
        raise ArtifactError(f"version must be whole numbers joined by dots, got {version!r}")


def digest(document: dict[str, Any]) -> str:
    """sha256 of the canonical JSON (sorted keys, no spaces) of a manifest without its digest."""
    body = {key: value for key, value in document.items() if key != "digest"}
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def parse(data: bytes) -> Manifest:
    """Read and check manifest.json. Raises ArtifactError with what is wrong."""
    try:
        document = json.loads(data)
        own = digest(document) if isinstance(document, dict) else ""
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{MANIFEST} is truncated or not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ArtifactError(f"{MANIFEST} must hold an object, got {type(document).__name__}")
    found = document.get("format_version")
    if found not in FORMAT_VERSIONS:
        raise ArtifactError(
            f"format_version {found!r} is unknown, this version reads"
            f" {' and '.join(map(str, FORMAT_VERSIONS))};"
            " upgrade aigc to open a newer artifact"
        )
    if document.get("digest") != own:
        raise ArtifactError(f"{MANIFEST} was altered: its digest does not match its content")
    try:
        manifest: Manifest = msgspec.convert(document, Manifest)
    except msgspec.ValidationError as error:
        raise ArtifactError(f"{MANIFEST}: {error}") from error
    if not manifest.files:
        raise ArtifactError(f"{MANIFEST} names no files")
    if (needed := needed_version(manifest)) > manifest.format_version:
        raise ArtifactError(
            f"{MANIFEST} says format_version {manifest.format_version} and uses what came with"
            f" {needed}"
        )
    return manifest


def seal(folder: Path, manifest: Manifest) -> Manifest:
    """Hash every file below `folder` and write manifest.json last, by rename.

    Returns the manifest as written, with `files` and `digest` filled in, and the lowest format
    version that has what it uses. An existing signature file is removed: it signed the previous
    manifest.
    """
    (folder / SIGNATURE_FILE).unlink(missing_ok=True)
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    files = {}
    for path in paths:
        data = path.read_bytes()
        name = path.relative_to(folder).as_posix()
        files[name] = File(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
    version = needed_version(manifest)
    document = msgspec.to_builtins(
        replace(manifest, files=files, digest="", format_version=version)
    )
    if manifest.training is None:
        del document["training"]
    document["digest"] = digest(document)
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    write(folder / MANIFEST, text.encode())
    return parse((folder / MANIFEST).read_bytes())
