"""manifest.json: signatures, training facts, metrics and the hash of every file of an artifact."""

import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import msgspec

from aigc.artifact.precision import Precision as Precision
from aigc.artifact.preprocessing import AudioPreprocessing
from aigc.artifact.signature import DRAWN as DRAWN
from aigc.artifact.signature import MAX_CLASSES as MAX_CLASSES
from aigc.artifact.signature import MAX_VALUES as MAX_VALUES
from aigc.artifact.signature import Kind as Kind
from aigc.artifact.signature import Signature as Signature
from aigc.artifact.signature import TensorSpec as TensorSpec
from aigc.artifact.signature import check_signature
from aigc.artifact.tiling import Chunk as Chunk
from aigc.artifact.tiling import Tile as Tile
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

Level = Literal["bit", "uint8", "tolerance"]


class ArtifactError(ValueError):
    """An artifact cannot be opened, trusted or published; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Reproducibility:
    """Equality of outputs over batch sizes and thread counts on one machine."""

    level: Level
    max_abs: float


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Distance between the graph and the torch module that it was exported from."""

    max_abs: float
    """Largest difference; for unbounded values relative to 1 + their size, beyond the rounding of
    the largest of their row."""
    uint8_mismatch: float
    """Share of unsaturated uint8 pixels, of 50,000 where there are fewer, of texts, or of codes
    that differ; 0 for other outputs. Samples whose codes differ are compared no further."""
    samples: int
    """Samples that were compared; in all but the largest batches an eighth of them, except texts,
    codes and sounds."""
    batch_sizes: tuple[int, ...]
    sizes: tuple[dict[str, int], ...] | msgspec.UnsetType = msgspec.UNSET
    """Sizes of free axes at which they were compared; unset for fixed shapes."""


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
    precision: Precision | msgspec.UnsetType = msgspec.UNSET
    """Precision below float32, and its cost. Since format version 2; unset for float32."""
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
        if isinstance(self.precision, Precision) and self.precision.loss.keys() - self.signatures:
            raise ArtifactError("precision states the loss of a signature that is not there")
        for name, signature in self.signatures.items():
            if signature.graph not in self.files and self.files:
                raise ArtifactError(f"graph {signature.graph!r} of signature {name!r} is no file")
            step = self.signatures.get(signature.step)
            if signature.step and (
                step is None or step.step or step.axes or step.graph != signature.graph
            ):
                raise ArtifactError(
                    f"signature {name!r} goes by steps of {signature.step!r}, which must be a"
                    " signature of the same graph, without free axes"
                )
            if signature.axes and any("@" in each for each in self.signatures):
                raise ArtifactError(
                    f"signature {name!r} has free axes, so no signature may have an @ in its name"
                )
            try:
                check_signature(name, signature)
            except ValueError as error:
                raise ArtifactError(f"{error}") from None

    @property
    def id(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"

    @property
    def source(self) -> str:
        """`model:preset` of a run, `imported:NAME` of a class or file of another project."""
        return f"{self.model}:{self.preset}" if self.training else f"{IMPORTED}:{self.model}"

    @cached_property
    def offered(self) -> tuple[str, ...]:
        """Signatures that can be called: all that are not a step of another."""
        steps = {signature.step for signature in self.signatures.values()}
        return tuple(name for name in self.signatures if name not in steps)

    def default_signature(self, *, has_inputs: bool = False) -> str:
        """The signature of a request that names none, with or without given inputs.

        It is `sample`, beside inputs `translate`; of an artifact without `sample` the only one that
        can be called so.
        """
        usual = "translate" if has_inputs else "sample"
        if usual in self.offered or "sample" in self.offered:
            return usual
        drawn = [name for name in self.offered if self.signatures[name].drawable]
        given = [name for name in self.offered if self.signatures[name].given]
        fits = given if has_inputs else drawn or given
        return fits[0] if len(fits) == 1 else usual


def needed_version(manifest: Manifest) -> int:
    """Lowest format version that has everything that a manifest uses."""
    has_axes = any(signature.axes for signature in manifest.signatures.values())
    is_reduced = manifest.precision is not msgspec.UNSET
    keeps_level = any(
        isinstance(spec.preprocessing, AudioPreprocessing) and spec.preprocessing.level
        for signature in manifest.signatures.values()
        for spec in signature.inputs
    )
    newer = manifest.training is None or has_axes or is_reduced or keeps_level
    return 2 if newer else 1


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


def to_document(manifest: Manifest) -> dict[str, Any]:
    """The manifest as it is written: in the lowest format version that has what it uses."""
    version = needed_version(manifest)
    document: dict[str, Any] = msgspec.to_builtins(replace(manifest, format_version=version))
    if manifest.training is None:
        del document["training"]
    for signature in document["signatures"].values():
        if not signature["axes"]:  # came with version 2
            del signature["axes"]
    return document


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
    document = to_document(replace(manifest, files=files, digest=""))
    document["digest"] = digest(document)
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    write(folder / MANIFEST, text.encode())
    return parse((folder / MANIFEST).read_bytes())
