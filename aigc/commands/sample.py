"""`aigc sample`: samples of an artifact or of a server, as files. Needs no torch.

The same seed gives the same bytes from an artifact and from a server.
"""

import secrets
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import tyro
from numpy.typing import NDArray

from aigc.artifact import (
    Artifact,
    Signature,
    TensorSpec,
    audio_files,
    image_files,
    signing,
    user_inputs,
)
from aigc.artifact.axes import Axis, sizes_of_image
from aigc.artifact.image_files import Provenance
from aigc.artifact.sampling_inputs import is_picture
from aigc.commands.sample_files import (
    Options,
    Samples,
    check_picture,
    joined,
    read_input_file,
    selected,
    write,
)
from aigc.commands.sample_remote import from_server


def command(argv: list[str]) -> int:
    """Generate samples with an artifact or a server, as PNG, WAV, npy or JSON."""
    options = tyro.cli(Options, args=argv, prog="aigc sample", description=Options.__doc__)
    started = time.perf_counter()
    remote = options.source.startswith(("http://", "https://"))
    samples = from_server(options) if remote else from_artifact(options)
    took = time.perf_counter() - started
    path = write(options, samples)
    print(
        f"{options.n} samples of {samples.artifact}, seed {samples.seed}, in {took * 1000:.0f} ms",
        file=sys.stderr,
    )
    print(path)
    return 0


def from_artifact(options: Options) -> Samples:
    """Sample in this process. Raises ValueError for a label or signature that does not fit."""
    trust = signing.wanted(options.trust)
    artifact = Artifact.open(options.source, verify=False, trust=trust, provider=options.provider)
    default = artifact.manifest.default_signature(has_inputs=bool(options.inputs))
    options = replace(options, signature=options.signature or default)
    options = options.with_classes(artifact.signature(options.signature).label)
    for spec in artifact.signature(options.signature).outputs:
        check_picture(options, spec.kind, spec.shape)
    given = _given(artifact, options)
    seed = _seed(artifact, options)
    signature = artifact.signature(options.signature)
    sizes = artifact.sizes(options.signature, _chosen(signature, options), given)
    parts = []
    step = signature.max_batch(sizes, options.n)
    for start in range(0, options.n, step):
        stop = min(start + step, options.n)
        inputs = artifact.draw(
            options.signature,
            seed,
            range(options.first_index + start, options.first_index + stop),
            options.labels(start, stop),
            options.settings,
            {name: rows[start:stop] for name, rows in given.items()},
            sizes,
        )
        parts.append(artifact.run(options.signature, inputs))
    outputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    specs = selected(signature.outputs, options.format)
    origin = partial(_samples_of, artifact, options, seed, outputs, given=given, sizes=sizes)
    return replace(joined(map(origin, specs), specs), labels=options.classes)


def _chosen(signature: Signature, options: Options) -> dict[str, int]:
    """Sizes of axes by name, those of --size included. Raises ValueError."""
    if not options.size:
        return dict(options.sizes)
    image = next((spec for spec in signature.outputs if spec.kind == "image"), None)
    if image is None:
        raise ValueError(f"--size has no effect: signature {options.signature!r} gives no image")
    return {**options.sizes, **sizes_of_image(signature.reach, image.shape, options.size)}


def _seed(artifact: Artifact, options: Options) -> int:
    """The seed of the samples, drawn if none is given; 0 where it has no effect."""
    if options.inputs and not artifact.signature(options.signature).seeded:
        return 0
    return secrets.randbits(53) if options.seed is None else options.seed


def _samples_of(
    artifact: Artifact,
    options: Options,
    seed: int,
    outputs: dict[str, NDArray[Any]],
    output: TensorSpec,
    *,
    given: dict[str, NDArray[Any]],
    sizes: dict[str, int],
) -> Samples:
    """One output of a signature, with a file per sample for pictures and sounds."""
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
            label=options.classes[i % len(options.classes)] if options.classes else None,
            given=user_inputs.fingerprints(given, i),
            settings=options.settings,
            sizes=sizes,
        )
        for i in range(options.n)
    ]
    if output.kind == "audio":
        suffix = "flac" if options.format == "flac" else "wav"
        write_one = audio_files.flac if suffix == "flac" else audio_files.wav
        waves = outputs[output.name]
        sounds = (
            write_one(wave, output.sample_rate_hz, origin)
            for wave, origin in zip(audio_files.to_pcm16(waves), provenance, strict=True)
        )
        return Samples(artifact.id, digest, seed, waves, tuple(sounds), suffix)
    if not is_picture(output):
        suffix = "npy" if output.kind == "image" else "png"
        return Samples(artifact.id, digest, seed, outputs[output.name], (), suffix)
    images = artifact.uint8(options.signature, outputs)
    files = tuple(map(image_files.png, images, provenance))
    return Samples(artifact.id, digest, seed, images, files)


def _given(artifact: Artifact, options: Options) -> dict[str, NDArray[Any]]:
    """The inputs given, the same for all samples: (n, *shape) by name."""
    if options.inputs:
        has_label, has_seed = bool(options.label), options.seed is not None
        artifact.check_inputs(
            options.signature, options.inputs, has_label=has_label, has_seed=has_seed
        )
    specs = {spec.name: spec for spec in artifact.signature(options.signature).given}
    axes = artifact.signature(options.signature).reach
    rows = {name: _row(specs[name], value, axes) for name, value in options.inputs.items()}
    return {name: np.broadcast_to(row, (options.n, *row.shape)) for name, row in rows.items()}


def _row(spec: TensorSpec, value: str, axes: Mapping[str, Axis]) -> NDArray[Any]:
    """One input, without its batch axis. Raises ValueError naming the file."""
    try:
        return user_inputs.read_input(spec, read_input_file(spec.kind, value), axes=axes)
    except ValueError as error:
        raise ValueError(f"{value[:200]}: {error}") from None
