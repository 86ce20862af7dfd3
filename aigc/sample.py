"""`aigc sample`: artifact -> files, or URL -> files. Needs no torch.

The same seed gives the same bytes from a file and from a server.
"""

import base64
import json
import secrets
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from numpy.typing import NDArray

from aigc import client
from aigc.artifact import Artifact, TensorSpec, codecs, intake, sound
from aigc.artifact.codecs import Provenance

Format = Literal["png", "wav", "flac", "grid", "txt", "npy", "json"]
_KINDS = {"grid": "image", "wav": "audio", "flac": "audio", "txt": "text"}
"""What a format is for; of a signature that gives several things it is all that is written."""
PART = 256
"""Most samples per HTTP request; larger wishes are asked for in parts."""


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
    label: tuple[int, ...] = ()
    """Classes, taken in turn; drawn from the seed if none is given."""
    model: str = ""
    """Model to ask a server for; its only one if not given."""
    signature: str = ""
    """Signature to call; sample if not given."""
    format: Format = "png"
    """png: a file per image and a grid; grid; wav, flac: a file per sound, which png gives as wav;
    txt: a line per text, which is what texts become where a picture is asked for; npy: one array;
    json: numbers or texts."""
    settings: dict[str, float] = field(default_factory=dict)
    """What the signature lets a caller choose, such as temperature 0.7."""
    inputs: dict[str, str] = field(default_factory=dict)
    """What the signature makes them from, by input: a file for an image or a sound, or a text, such
    as image seven.png; the signature is translate then, unless it is said."""
    out: str = "samples"
    """Folder to write to."""

    def __post_init__(self) -> None:
        if not 1 <= self.n <= 1_000_000:
            raise ValueError(f"n must be in [1, 1000000], got {self.n}")
        if not self.signature:
            object.__setattr__(self, "signature", "translate" if self.inputs else "sample")

    def labels(self, start: int, stop: int) -> list[int] | None:
        """The classes asked for samples start..stop, None if none were."""
        if not self.label:
            return None
        return [self.label[i % len(self.label)] for i in range(start, stop)]


@dataclass(frozen=True)
class Samples:
    """Generated samples with what made them."""

    artifact: str
    digest: str
    seed: int
    arrays: NDArray[Any]
    """Images: (N, H, W, C) uint8. Texts: (N,) of strings. Other outputs: (N, ...) float32."""
    files: tuple[bytes, ...]
    """A PNG per image, a WAV or FLAC per sound, with its provenance; empty for other outputs."""
    suffix: str = "png"
    """Of the files."""
    others: tuple["Samples", ...] = ()
    """What else the signature gives of the same samples."""
    name: str = ""
    """Of the output, where it is not the first."""


def command(argv: list[str]) -> int:
    """Generate samples with an artifact or a server, as PNG, WAV, npy or JSON."""
    options = tyro.cli(Options, args=argv, prog="aigc sample", description=Options.__doc__)
    begun = time.perf_counter()
    remote = options.source.startswith(("http://", "https://"))
    samples = from_server(options) if remote else from_artifact(options)
    took = time.perf_counter() - begun
    path = write(options, samples)
    print(
        f"{options.n} samples of {samples.artifact}, seed {samples.seed}, in {took * 1000:.0f} ms",
        file=sys.stderr,
    )
    print(path)
    return 0


def from_artifact(options: Options) -> Samples:
    """Sample in this process. Raises ValueError for a label or signature that does not fit."""
    artifact = Artifact.open(options.source, verify=False)
    given = _given(artifact, options)
    seed = _seed(artifact, options)
    inputs = artifact.draw(
        options.signature,
        seed,
        range(options.first_index, options.first_index + options.n),
        options.labels(0, options.n),
        options.settings,
        given,
    )
    outputs = artifact.run(options.signature, inputs)
    specs = artifact.signature(options.signature).outputs
    asked = [spec for spec in specs if spec.kind == _KINDS.get(options.format)] or specs
    first, *others = (_made(artifact, options, seed, outputs, spec, given) for spec in asked)
    named = zip(others, asked[1:], strict=True)
    return replace(first, others=tuple(replace(other, name=spec.name) for other, spec in named))


def _seed(artifact: Artifact, options: Options) -> int:
    """That of the samples, drawn if need be; 0 where none has a say. Raises ValueError."""
    spec = artifact.signature(options.signature)
    if options.inputs and spec.label is not None and not options.label:
        raise ValueError(
            f"signature {options.signature!r} of {artifact.id} needs {spec.label.name} beside what"
            " is given: nothing is drawn for it"
        )
    if options.inputs and not any(one.kind in ("latent", "uniform") for one in spec.inputs):
        if options.seed is not None:
            raise ValueError("seed has no effect: all that is to be run on is given by inputs")
        return 0
    return secrets.randbits(53) if options.seed is None else options.seed


def _made(
    artifact: Artifact,
    options: Options,
    seed: int,
    outputs: dict[str, NDArray[Any]],
    output: TensorSpec,
    given: dict[str, NDArray[Any]],
) -> Samples:
    """One output of a signature, as files where it can be."""
    digest = artifact.manifest.digest
    if output.kind == "text":
        texts = np.array(artifact.texts(options.signature, outputs))
        return Samples(artifact.id, digest, seed, texts, ())
    provenance = [
        Provenance(
            artifact=artifact.id,
            digest=digest,
            signature=options.signature,
            seed=seed,
            index=options.first_index + i,
            label=options.label[i % len(options.label)] if options.label else None,
            given=intake.fingerprints(given, i),
            settings=options.settings,
        )
        for i in range(options.n)
    ]
    if output.kind == "audio":
        suffix = "flac" if options.format == "flac" else "wav"
        write_one = sound.flac if suffix == "flac" else sound.wav
        waves = outputs[output.name]
        sounds = (
            write_one(wave, output.sample_rate_hz, made_by)
            for wave, made_by in zip(sound.to_pcm16(waves), provenance, strict=True)
        )
        return Samples(artifact.id, digest, seed, waves, tuple(sounds), suffix)
    if output.kind != "image":
        return Samples(artifact.id, digest, seed, outputs[output.name], ())
    images = artifact.uint8(options.signature, outputs)
    files = tuple(map(codecs.png, images, provenance))
    return Samples(artifact.id, digest, seed, images, files)


def _given(artifact: Artifact, options: Options) -> dict[str, NDArray[Any]]:
    """What samples are made from, the same for all: (n, *shape) by input."""
    inputs = artifact.signature(options.signature).inputs
    specs = {spec.name: spec for spec in inputs if spec.kind in intake.KINDS}
    if unknown := sorted(set(options.inputs) - set(specs)):
        raise ValueError(
            f"signature {options.signature!r} of {artifact.id} has no input {unknown[0]!r}, it has:"
            f" {', '.join(specs) or 'none'}"
        )
    rows = {
        name: intake.tensor(specs[name], _read(specs[name].kind, value))
        for name, value in options.inputs.items()
    }
    return {name: np.broadcast_to(row, (options.n, *row.shape)) for name, row in rows.items()}


def _read(kind: str, value: str) -> bytes | str:
    """A file of the kinds that come as files, else the text itself."""
    return Path(value).read_bytes() if kind in ("image", "audio") else value


def from_server(options: Options) -> Samples:
    """Sample over HTTP, in parts of at most PART. Raises ValueError with the server's message."""
    url = options.source.rstrip("/")
    model = client.ask(f"{url}/v1/models/{options.model or _only_model(url)}")
    signature = model["signatures"].get(options.signature)
    if signature is None:
        raise ValueError(
            f"{model['id']} has no signature {options.signature!r}, it has:"
            f" {', '.join(model['signatures'])}"
        )
    kinds = {spec["name"]: spec["kind"] for spec in signature["inputs"]}
    body: dict[str, Any] = {"model": model["id"], "signature": options.signature, "format": "json"}
    if options.settings:
        body["settings"] = options.settings
    if options.inputs:
        files = {name: _read(kinds.get(name, ""), v) for name, v in options.inputs.items()}
        body["inputs"] = {
            name: base64.b64encode(value).decode() if isinstance(value, bytes) else value
            for name, value in files.items()
        }
    seed, parts = options.seed, []
    for start in range(0, options.n, PART):
        n = min(PART, options.n - start)
        part = {**body, "n": n, "first_index": options.first_index + start}
        if seed is not None:
            part["seed"] = seed
        if options.label:
            part["label"] = options.labels(start, start + n)
        parts.append(client.ask(f"{url}/v1/samples", part))
        seed = parts[0]["seed"]
    records = [record for part in parts for record in part["samples"]]
    # Nothing was drawn where there is none.
    made = (model["id"], model["digest"], 0 if seed is None else seed)
    specs = signature["outputs"]
    asked = [spec for spec in specs if spec["kind"] == _KINDS.get(options.format)] or specs
    first, *others = (_told(records, spec, made, options.format) for spec in asked)
    named = zip(others, asked[1:], strict=True)
    return replace(first, others=tuple(replace(other, name=spec["name"]) for other, spec in named))


def _told(
    records: list[dict[str, Any]], spec: dict[str, Any], made: tuple[str, str, int], form: Format
) -> Samples:
    """One output of a signature, out of a server's answers."""
    kind, name = spec["kind"], spec["name"]
    if kind == "text":
        return Samples(*made, np.array([record["text"] for record in records]), ())
    if kind == "image" and "image" in records[0]:
        files = tuple(base64.b64decode(record["image"]) for record in records)
        return Samples(*made, np.stack([codecs.read_png(data)[0] for data in files]), files)
    if kind == "audio":
        files = tuple(base64.b64decode(record["audio"]) for record in records)
        read = [sound.read_sound(data) for data in files]
        waves = np.stack([one.samples for one in read])
        if form != "flac":
            return Samples(*made, waves, files, "wav")
        again = (
            sound.flac(sound.to_pcm16(one.samples), one.rate_hz, one.provenance) for one in read
        )
        return Samples(*made, waves, tuple(again), "flac")
    values = np.array([record["outputs"][name] for record in records], np.float32)
    return Samples(*made, values, ())


def write(options: Options, samples: Samples) -> Path:
    """Write samples below options.out; returns the file, or the folder of a file per sample."""
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    first, last = options.first_index, options.first_index + options.n - 1
    for other in samples.others:
        write(options, other)
    name = f"-{samples.name}" if samples.name else ""
    stem = f"{samples.artifact.replace('@', '-')}{name}-seed{samples.seed}"
    path = folder / f"{stem}-{first}..{last}"
    if options.format == "npy":
        return _write(path.with_name(f"{path.name}.npy"), codecs.npy(samples.arrays))
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
    first_one = codecs.read_png(samples.files[0])[1]
    columns = min(10, len(samples.files)) if len(samples.files) % 10 == 0 else 0
    provenance = first_one and replace(
        first_one, label=None, n=len(samples.files), labels=options.label, columns=columns
    )
    picture = codecs.png(codecs.grid(samples.arrays, columns), provenance)
    grid = _write(path.with_name(f"{path.name}.png"), picture)
    if options.format == "grid":
        return grid
    return _write_each(folder, stem, first, samples)


def _write_each(folder: Path, stem: str, first: int, samples: Samples) -> Path:
    for index, data in enumerate(samples.files, first):
        _write(folder / f"{stem}-{index}.{samples.suffix}", data)
    return folder


def _write(path: Path, data: bytes) -> Path:
    codecs.write(path, data)
    return path


def _only_model(url: str) -> str:
    models = [model["id"] for model in client.ask(f"{url}/v1/models")["data"]]
    if len(models) != 1:
        raise ValueError(f"{url} serves {', '.join(models)}; choose one with --model")
    return str(models[0])
