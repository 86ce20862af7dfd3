"""`aigc verify`: replay an artifact's references, or show a file's provenance. Needs no torch."""

import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
import tyro
from msgspec import UNSET

from aigc.artifact import Artifact, signing
from aigc.artifact.folder import SealedFolder
from aigc.artifact.image_files import Provenance
from aigc.artifact.providers import Provider, ProviderOptions
from aigc.artifact.recreate import check_columns, read_file, recreate
from aigc.artifact.store import locate
from aigc.artifact.trial import Bounds, try_out

MEMORY_SHARE = 0.5
"""Share of the free memory that a trial of an artifact may use."""
TRIAL_S = 600.0
"""Time limit of a trial."""
MAX_GRID = 100_000
"""Most samples of a grid that is recreated."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Replay an artifact's references on this machine, or say what made a picture or a sound."""

    what: tyro.conf.Positional[str]
    """An artifact (folder, STORE/NAME, STORE/NAME@VERSION), an image file (PNG, WebP, JPEG) or a
    sound (WAV, FLAC; an AIFF carries no provenance)."""
    artifact: str = ""
    """The artifact that recreates a file, to compare it with."""
    trust: str = ""
    """File of public keys (PEM): refuse an artifact that none of them signed. AIGC_TRUST does the
    same."""
    provider: Provider = "auto"
    """Execution provider that replays the references: cpu, cuda or tensorrt, which are refused
    where they cannot be had; auto takes cuda where there is one, else cpu."""


def command(argv: list[str]) -> int:
    """Replay an artifact's references, or say which artifact and seed made a file."""
    options = tyro.cli(Options, args=argv, prog="aigc verify", description=Options.__doc__)
    path = Path(options.what)
    trust = signing.wanted(options.trust)
    if path.is_file():
        return _file(path, options, trust)
    return _artifact(options, trust)


def _artifact(options: Options, trust: signing.Trust | None) -> int:
    folder = SealedFolder.open(locate(options.what), trust)
    folder.check()
    contents = folder.contents(*folder.graphs())
    # The artifact may be a stranger's: it is tried within bounds first.
    memory = int(MEMORY_SHARE * psutil.virtual_memory().available)
    try_out(folder.manifest_bytes, contents, Bounds(memory_bytes=memory, seconds=TRIAL_S))
    chosen = ProviderOptions(provider=options.provider)
    artifact = Artifact(folder.manifest, folder.uri, contents, threads=1, options=chosen)
    artifact.verify()
    if trust is not None:
        print(f"{artifact.id}: signed by a key in {trust.name}", file=sys.stderr)
    print(f"{artifact.id}: digest and {len(artifact.manifest.files)} files match", file=sys.stderr)
    print(f"  provider {artifact.provider}", file=sys.stderr)
    for name, measured in artifact.reproducibility.items():
        exact = "" if measured.level == "bit" else f", max abs {measured.max_abs:.1e}"
        print(f"  {name}: references reproduced, level {measured.level}{exact}", file=sys.stderr)
    print(artifact.uri)
    return 0


def _file(path: Path, options: Options, trust: signing.Trust | None) -> int:
    reference = options.artifact
    try:
        file = read_file(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    provenance = file.provenance
    if provenance is None:
        raise ValueError(f"{path} carries no provenance of an artifact")
    print(_describe(provenance, file.collection))
    hint = "give --artifact to recreate it and compare"
    if provenance.given:
        hint = "it was made from inputs that are not kept, so it cannot be recreated"
    if not reference:
        print(hint, file=sys.stderr)
        return 0
    if provenance.given:
        raise ValueError(f"{path} proves nothing: {hint}")
    if not 1 <= provenance.n <= MAX_GRID:
        raise ValueError(f"{path} claims {provenance.n} samples; a grid has 1 to {MAX_GRID}")
    try:
        check_columns(provenance)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    artifact = Artifact.open(reference, verify=False, trust=trust, provider=options.provider)
    if artifact.manifest.digest != provenance.digest:
        raise ValueError(f"{artifact.id} has digest {artifact.manifest.digest[:12]}, another one")
    name = provenance.signature
    signature = artifact.signature(name)
    try:
        output = file.output(signature)
    except ValueError as error:
        raise ValueError(f"{path}: signature {name!r} of {artifact.id} {error}") from None
    if artifact.manifest.precision is not UNSET:
        artifact.verify()  # measures the level of this machine
    measured = artifact.reproducibility[name]
    comparison = file.compare(recreate(artifact, provenance, output), artifact.manifest, measured)
    if not comparison.matches:
        raise ValueError(
            f"{path} differs from what {artifact.id} makes of its seed and index:"
            f" {comparison.describe()}"
        )
    print(f"recreated: {comparison.describe()}", file=sys.stderr)
    return 0


def _describe(provenance: Provenance, collection: str) -> str:
    p = provenance
    parts = [
        f"{p.artifact} ({p.digest[:12]})",
        f"signature {p.signature}",
        f"seed {p.seed}",
        f"index {p.index}",
    ]
    if p.label is not None:
        parts.append(f"label {p.label}")
    if p.to_seed is not None:
        parts.append(f"on the way to seed {p.to_seed}")
        if p.to_label is not None:
            parts.append(f"label {p.to_label}")
    if p.labels:
        parts.append(f"labels {' '.join(map(str, p.labels))} in turn")
    parts += [f"{name} {value:g}" for name, value in p.settings.items()]
    parts += [f"size {name} {size}" for name, size in p.sizes.items()]
    if p.n > 1:
        parts.append(f"a {collection} of {p.n}")
    if p.given:
        parts.append("from " + " and ".join(one[:24] for one in p.given))
    return ", ".join(parts)
