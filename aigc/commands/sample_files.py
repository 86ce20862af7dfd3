"""Options of `aigc sample`, its samples, and the files that it writes."""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeVar
from urllib.parse import quote

import numpy as np
import tyro
from numpy.typing import NDArray

from aigc import files, http_client
from aigc.artifact import image_files
from aigc.artifact.axes import Shape
from aigc.artifact.class_names import class_index
from aigc.artifact.image_files import fits_png
from aigc.artifact.providers import Provider
from aigc.files import expanded

Format = Literal["png", "wav", "flac", "grid", "txt", "npy", "json"]
_KINDS: dict[Format | None, str] = {"grid": "image", "wav": "audio", "flac": "audio", "txt": "text"}
"""Kind of output that a format is for; only outputs of that kind are written then."""
MAX_NAME = 100
"""Most characters of an output's name in the name of a file."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Generate samples with an artifact, or with a server."""

    source: tyro.conf.Positional[str]
    """Artifact (folder, STORE/NAME, STORE/NAME@VERSION) or URL of a server."""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 16
    """Number of samples."""
    seed: int | None = None
    """Seed; drawn and printed if not given."""
    first_index: int = 0
    """Index of the first sample within the seed."""
    label: tuple[str, ...] = ()
    """Classes by name or number, taken in turn; drawn from the seed if not given. name:1 is the
    class called 1 where 1 is the number of another, which is index:1."""
    classes: Annotated[tuple[int, ...], tyro.conf.Suppress] = ()
    """Numbers of the classes in `label`."""
    model: str = ""
    """Model to ask a server for; its only one if not given."""
    signature: str = ""
    """Signature to call; by default sample, with inputs translate, or an artifact's only one."""
    format: Format | None = None
    """png: a file per image and a grid, a wav per sound, a line per text; grid; wav, flac: a file
    per sound; txt: a line per text; npy: one array; json: numbers or texts. The default is png, or
    npy for images of more channels than a PNG has (4)."""
    settings: dict[str, float] = field(default_factory=dict)
    """Settings of the signature, such as temperature 0.7."""
    size: str = ""
    """WIDTHxHEIGHT of images with free sizes, such as 64x48; the signature's default if not
    given."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Sizes of the signature's free axes by name, such as h 8 w 6."""
    inputs: dict[str, str] = field(default_factory=dict)
    """Inputs of the signature by name: a file for an image or a sound, or a text, such as image
    seven.png; numbers are a .npy or .json file."""
    out: str = "samples"
    """Folder to write to."""
    trust: str = ""
    """File of public keys (PEM): refuse an artifact that none of them signed. The default is
    AIGC_TRUST."""
    provider: Provider = "auto"
    """Execution provider of an artifact: cpu, cuda or tensorrt, which are refused where they cannot
    be had; auto takes cuda where there is one, else cpu."""

    def __post_init__(self) -> None:
        if not 1 <= self.n <= 1_000_000:
            raise ValueError(f"n must be in [1, 1000000], got {self.n}")
        if self.trust and self.source.startswith(("http://", "https://")):
            raise ValueError(
                "--trust is for artifacts; a server checks its own: aigc serve --trust"
            )
        if self.provider != "auto" and self.source.startswith(("http://", "https://")):
            raise ValueError(
                "--provider is for artifacts; a server has its own: aigc serve --provider"
            )

    def labels(self, start: int, stop: int) -> list[int] | None:
        """The requested classes of samples start..stop; None if drawn."""
        if not self.classes:
            return None
        return [self.classes[i % len(self.classes)] for i in range(start, stop)]

    def with_classes(self, spec: "Label | None") -> "Options":
        """The options with the numbers of their classes, by a label input or None without one.

        Raises ValueError for a name that is unknown, or may mean several.
        """
        if not self.label:
            return self
        if spec is None or spec.range is None:
            # What draws says that it takes no label.
            return replace(
                self, classes=tuple(int(one) if one.isdigit() else 0 for one in self.label)
            )
        count = int(spec.range[1]) + 1
        numbers = tuple(class_index(one, spec.classes, count) for one in self.label)
        return replace(self, classes=numbers)


@dataclass(frozen=True)
class Samples:
    """Generated samples and their origin."""

    artifact: str
    digest: str
    seed: int
    arrays: NDArray[Any]
    """Images: (N, H, W, C) uint8. Texts: (N,) strings. Other outputs, and images that do not fit
    into a PNG: (N, ...) float32."""
    files: tuple[bytes, ...]
    """A PNG per image, a WAV or FLAC per sound, with provenance; empty for other outputs."""
    suffix: str = "png"
    """Suffix of the files; npy for images that do not fit into a PNG."""
    others: tuple["Samples", ...] = ()
    """Other outputs of the same samples."""
    name: str = ""
    """Name of an output other than the first."""
    labels: tuple[int, ...] = ()
    """Numbers of the classes asked for, taken in turn."""


class Label(Protocol):
    """A label input of a signature, by a manifest or by a server."""

    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def range(self) -> tuple[float, float] | None: ...


class Output(Protocol):
    """An output of a signature, by a manifest or by a server."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...


AnyOutput = TypeVar("AnyOutput", bound=Output)


def selected(outputs: Sequence[AnyOutput], form: Format | None) -> list[AnyOutput]:
    """The outputs that a format is for; all of them if it is for none."""
    return [output for output in outputs if output.kind == _KINDS.get(form)] or [*outputs]


def joined(samples: Iterable[Samples], outputs: Sequence[Output]) -> Samples:
    """Samples of several outputs as one: those of the first, with the others below it by name."""
    first, *others = samples
    named = zip(others, outputs[1:], strict=True)
    return replace(first, others=tuple(replace(other, name=output.name) for other, output in named))


def check_picture(options: Options, kind: str, shape: Shape) -> None:
    """Raise ValueError for a picture format of images with more channels than a PNG has."""
    channels = shape[0] if shape and kind == "image" else 1
    if options.format in ("png", "grid") and not (isinstance(channels, int) and fits_png(channels)):
        raise ValueError(
            f"{options.format} holds 1 to 4 channels, signature {options.signature!r} gives images"
            f" of {channels}; take npy or json"
        )


def read_input_file(kind: str, value: str) -> Any:
    """The content of an image or sound file, the numbers of a .npy or .json file; texts as they
    are."""
    if kind == "vector":
        path = Path(value)
        return np.load(path).tolist() if path.suffix == ".npy" else json.loads(path.read_text())
    return Path(value).read_bytes() if kind in ("image", "audio") else value


def write(options: Options, samples: Samples) -> Path:
    """Write samples below options.out. Returns the file, or the folder if each sample has one."""
    folder = Path(expanded(options.out))
    folder.mkdir(parents=True, exist_ok=True)
    first, last = options.first_index, options.first_index + options.n - 1
    for other in samples.others:
        write(options, other)
    name = f"-{quote(samples.name, safe='')}" if samples.name else ""  # a server chooses the name
    if len(name) > MAX_NAME:
        raise ValueError(
            f"output {http_client.quoted(samples.name)!r} is too long a name for a file"
        )
    stem = f"{samples.artifact.replace('@', '-')}{name}-seed{samples.seed}"
    path = folder / f"{stem}-{first}..{last}"
    if options.format is None and samples.suffix == "npy":
        shape = samples.arrays.shape
        print(f"images of {shape[1:]} are no pictures: written as npy of {shape}", file=sys.stderr)
    if options.format == "npy" or (options.format is None and samples.suffix == "npy"):
        return _write(path.with_name(f"{path.name}.npy"), image_files.npy(samples.arrays))
    if options.format == "txt" and samples.arrays.dtype.kind != "U":
        raise ValueError(f"{samples.artifact} gives no texts; take another format than txt")
    if samples.arrays.dtype.kind == "U" and options.format != "json":
        lines = "".join(f"{line}\n" for line in samples.arrays.tolist())
        return _write(path.with_name(f"{path.name}.txt"), lines.encode())
    if options.format == "json" or not samples.files:
        document = {"model": samples.artifact, "seed": samples.seed, "first_index": first}
        text = json.dumps(document | {"samples": samples.arrays.tolist()})
        return _write(path.with_name(f"{path.name}.json"), text.encode())
    if samples.suffix != "png":
        return _write_each(folder, stem, first, samples)
    first_one = image_files.read_png(samples.files[0])[1]
    columns = min(10, len(samples.files)) if len(samples.files) % 10 == 0 else 0
    provenance = first_one and replace(
        first_one, label=None, n=len(samples.files), labels=samples.labels, columns=columns
    )
    picture = image_files.png(image_files.grid(samples.arrays, columns), provenance)
    grid = _write(path.with_name(f"{path.name}.png"), picture)
    if options.format == "grid":
        return grid
    return _write_each(folder, stem, first, samples)


def _write_each(folder: Path, stem: str, first: int, samples: Samples) -> Path:
    for index, data in enumerate(samples.files, first):
        _write(folder / f"{stem}-{index}.{samples.suffix}", data)
    return folder


def _write(path: Path, data: bytes) -> Path:
    files.write(path, data)
    return path
