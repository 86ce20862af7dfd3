"""`aigc verify`: replay an artifact's references, or say what made an image. Needs no torch."""

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from aigc.artifact import Artifact, codecs
from aigc.artifact.contract import Arrays

MAX_GRID = 100_000
"""Most samples that a picture is made again from."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Replay an artifact's references on this machine, or say what made an image."""

    what: tyro.conf.Positional[str]
    """An artifact (folder, STORE/NAME, STORE/NAME@VERSION) or an image file (PNG, WebP, JPEG)."""
    artifact: str = ""
    """For an image: the artifact to make it again with and compare bit for bit."""


def command(argv: list[str]) -> int:
    """Replay an artifact's references, or say which artifact and seed made an image."""
    options = tyro.cli(Options, args=argv, prog="aigc verify", description=Options.__doc__)
    path = Path(options.what)
    return _png(path, options.artifact) if path.is_file() else _artifact(options.what)


def _artifact(reference: str) -> int:
    artifact = Artifact.open(reference, verify=True)
    print(f"{artifact.id}: digest and {len(artifact.manifest.files)} files match", file=sys.stderr)
    for name, measured in artifact.reproducibility.items():
        exact = "" if measured.level == "bit" else f", max abs {measured.max_abs:.1e}"
        print(f"  {name}: references reproduced, level {measured.level}{exact}", file=sys.stderr)
    print(artifact.uri)
    return 0


def _png(path: Path, reference: str) -> int:
    pixels, made_by = codecs.read_image(path.read_bytes())
    if made_by is None:
        raise ValueError(f"{path} carries no provenance of an artifact")
    where = f"{made_by.artifact} ({made_by.digest[:12]}), signature {made_by.signature}"
    label = "" if made_by.label is None else f", label {made_by.label}"
    if made_by.to_seed is not None:
        label += f", on the way to seed {made_by.to_seed}"
        label += "" if made_by.to_label is None else f", label {made_by.to_label}"
    labels = f", labels {' '.join(map(str, made_by.labels))} in turn" if made_by.labels else ""
    grid = f", a grid of {made_by.n}" if made_by.n > 1 else ""
    print(f"{where}, seed {made_by.seed}, index {made_by.index}{label}{labels}{grid}")
    if not reference:
        print("give --artifact to make it again and compare", file=sys.stderr)
        return 0
    if not 1 <= made_by.n <= MAX_GRID:
        raise ValueError(f"{path} claims {made_by.n} samples; a grid has 1 to {MAX_GRID}")
    artifact = Artifact.open(reference, verify=False)
    if artifact.manifest.digest != made_by.digest:
        raise ValueError(f"{artifact.id} has digest {artifact.manifest.digest[:12]}, another one")
    outputs = _make_again(artifact, made_by)
    again = codecs.arranged(artifact.uint8(made_by.signature, outputs), made_by)
    if codecs.difference(again, pixels) != 0:
        raise ValueError(f"{path} differs from what {artifact.id} makes of its seed and index")
    print("made again: every pixel is equal", file=sys.stderr)
    return 0


def _make_again(artifact: Artifact, made_by: codecs.Provenance) -> Arrays:
    name, seed, n = made_by.signature, made_by.seed, made_by.n
    if made_by.to_seed is None:
        return artifact.sample(
            name, seed=seed, n=n, first_index=made_by.index, label=made_by.asked()
        )
    inputs = artifact.draw_between(
        name,
        seed,
        made_by.to_seed,
        n,
        index=made_by.index,
        label=made_by.label,
        to_label=made_by.to_label,
    )
    return artifact.run(name, inputs)
