"""`aigc verify`: replay an artifact's references, or say what made a file. Needs no torch."""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from aigc.artifact import Artifact, codecs, sound
from aigc.artifact.contract import Arrays
from aigc.artifact.session import tolerance

MAX_GRID = 100_000
"""Most samples that a picture is made again from."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Replay an artifact's references on this machine, or say what made a picture or a sound."""

    what: tyro.conf.Positional[str]
    """An artifact (folder, STORE/NAME, STORE/NAME@VERSION), an image file (PNG, WebP, JPEG) or a
    sound (WAV, FLAC)."""
    artifact: str = ""
    """For a file: the artifact to make it again with and compare."""


def command(argv: list[str]) -> int:
    """Replay an artifact's references, or say which artifact and seed made a file."""
    options = tyro.cli(Options, args=argv, prog="aigc verify", description=Options.__doc__)
    path = Path(options.what)
    return _file(path, options.artifact) if path.is_file() else _artifact(options.what)


def _artifact(reference: str) -> int:
    artifact = Artifact.open(reference, verify=True)
    print(f"{artifact.id}: digest and {len(artifact.manifest.files)} files match", file=sys.stderr)
    for name, measured in artifact.reproducibility.items():
        exact = "" if measured.level == "bit" else f", max abs {measured.max_abs:.1e}"
        print(f"  {name}: references reproduced, level {measured.level}{exact}", file=sys.stderr)
    print(artifact.uri)
    return 0


def _file(path: Path, reference: str) -> int:
    data = path.read_bytes()
    again = _Sound(data) if sound.is_sound(data[:12]) else _Image(data)
    made_by = again.made_by
    if made_by is None:
        raise ValueError(f"{path} carries no provenance of an artifact")
    print(_said(made_by, again.several))
    again_needs = "give --artifact to make it again and compare"
    if made_by.given:
        again_needs = "it was made from what was given, which is not kept: not to be made again"
    if not reference:
        print(again_needs, file=sys.stderr)
        return 0
    if made_by.given:
        raise ValueError(f"{path} proves nothing: {again_needs}")
    if not 1 <= made_by.n <= MAX_GRID:
        raise ValueError(f"{path} claims {made_by.n} samples; a grid has 1 to {MAX_GRID}")
    if not 0 <= made_by.columns <= made_by.n:
        raise ValueError(f"{path} claims {made_by.columns} columns for {made_by.n} samples")
    artifact = Artifact.open(reference, verify=False)
    if artifact.manifest.digest != made_by.digest:
        raise ValueError(f"{artifact.id} has digest {artifact.manifest.digest[:12]}, another one")
    equal = again.compared(artifact, _make_again(artifact, made_by))
    if not equal:
        raise ValueError(f"{path} differs from what {artifact.id} makes of its seed and index")
    print(f"made again: {equal}", file=sys.stderr)
    return 0


def _said(made_by: codecs.Provenance, several: str) -> str:
    where = f"{made_by.artifact} ({made_by.digest[:12]}), signature {made_by.signature}"
    label = "" if made_by.label is None else f", label {made_by.label}"
    if made_by.to_seed is not None:
        label += f", on the way to seed {made_by.to_seed}"
        label += "" if made_by.to_label is None else f", label {made_by.to_label}"
    labels = f", labels {' '.join(map(str, made_by.labels))} in turn" if made_by.labels else ""
    grid = f", a {several} of {made_by.n}" if made_by.n > 1 else ""
    given = ", from " + " and ".join(one[:24] for one in made_by.given) if made_by.given else ""
    chosen = "".join(f", {name} {value:g}" for name, value in made_by.settings.items())
    return (
        f"{where}, seed {made_by.seed}, index {made_by.index}{label}{labels}{chosen}{grid}{given}"
    )


class _Image:
    """Pixels and what made them. Raises ValueError for what is no image."""

    several = "grid"

    def __init__(self, data: bytes) -> None:
        self._pixels, self.made_by = codecs.read_image(data)

    def compared(self, artifact: Artifact, outputs: Arrays) -> str:
        """How equal it is to what was made again; "" if it differs."""
        assert self.made_by is not None
        again = codecs.arranged(artifact.uint8(self.made_by.signature, outputs), self.made_by)
        return "every pixel is equal" if codecs.difference(again, self._pixels) == 0 else ""


class _Sound:
    """Samples and what made them. Raises ValueError for what is no sound."""

    several = "sequence"

    def __init__(self, data: bytes) -> None:
        self._sound = sound.read_sound(data)
        self.made_by = self._sound.provenance

    def compared(self, artifact: Artifact, outputs: Arrays) -> str:
        """How equal it is to what was made again; "" if it differs.

        Another machine may differ by what an artifact whose level is `tolerance` allows.
        """
        assert self.made_by is not None
        name = self.made_by.signature
        spec = next((s for s in artifact.signature(name).outputs if s.kind == "audio"), None)
        if spec is None or spec.sample_rate_hz != self._sound.rate_hz:
            return ""
        made = sound.to_pcm16(outputs[spec.name])
        found = sound.difference(sound.to_pcm16(self._sound.samples), np.concatenate([*made]))
        level, allowed = artifact.reproducibility[name].level, tolerance(artifact.signature(name))
        if found is None or found > sound.allowed_difference(level, allowed):
            return ""
        return f"within {found} of 32767 levels" if found else "every sample is equal"


def _make_again(artifact: Artifact, made_by: codecs.Provenance) -> Arrays:
    name, seed, n = made_by.signature, made_by.seed, made_by.n
    if made_by.to_seed is None:
        return artifact.sample(
            name,
            seed=seed,
            n=n,
            first_index=made_by.index,
            label=made_by.asked(),
            settings=made_by.settings,
        )
    inputs = artifact.draw_between(
        name,
        seed,
        made_by.to_seed,
        n,
        index=made_by.index,
        label=made_by.label,
        to_label=made_by.to_label,
        settings=made_by.settings,
    )
    return artifact.run(name, inputs)
