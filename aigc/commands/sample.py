"""`aigc sample`: samples of an artifact or of a server, as files. Needs no torch.

The same seed gives the same bytes from an artifact and from a server.
"""

import secrets
import sys
import time
from dataclasses import replace
from typing import Any

import numpy as np
import tyro
from numpy.typing import NDArray

from aigc.artifact import Artifact, TensorSpec, audio_files, image_files, signing, user_inputs
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
    artifact = Artifact.open(options.source, verify=False, trust=trust)
    default = artifact.manifest.default_signature(has_inputs=bool(options.inputs))
    options = replace(options, signature=options.signature or default)
    for spec in artifact.signature(options.signature).outputs:
        check_picture(options, spec.kind, spec.shape)
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
    specs = selected(artifact.signature(options.signature).outputs, options.format)
    parts = (_samples_of(artifact, options, seed, outputs, spec, given) for spec in specs)
    return joined(parts, specs)


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
    given: dict[str, NDArray[Any]],
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
            label=options.label[i % len(options.label)] if options.label else None,
            given=user_inputs.fingerprints(given, i),
            settings=options.settings,
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
    rows = {name: _row(specs[name], value) for name, value in options.inputs.items()}
    return {name: np.broadcast_to(row, (options.n, *row.shape)) for name, row in rows.items()}


def _row(spec: TensorSpec, value: str) -> NDArray[Any]:
    """One input, without its batch axis. Raises ValueError naming the file."""
    try:
        return user_inputs.read_input(spec, read_input_file(spec.kind, value))
    except ValueError as error:
        raise ValueError(f"{value[:200]}: {error}") from None
