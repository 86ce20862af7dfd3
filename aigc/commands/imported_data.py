"""Data for the evaluation of an imported artifact, which no training run describes."""

from aigc import files
from aigc.artifact import Artifact
from aigc.config import DataConfig, ModelConfig, TrainConfig, require
from aigc.data.guess import guess
from aigc.metrics import restoration
from aigc.own_code import DATA, find


def imported_config(artifact: Artifact, path: str, source: str = "") -> TrainConfig:
    """Config whose data have the shape and number of classes of an imported artifact.

    Their source is `source`, or what the files at `path` are. Raises ValueError without `path`
    and `source`, or for a signature whose outputs no data are like.
    """
    require(
        bool(path or source),
        f"{artifact.id} is imported, and its manifest names no data; give them with --data PATH",
    )
    signature = artifact.signature(evaluated(artifact))
    sized = signature.at(signature.sizes({}))
    spec, label = sized.outputs[0], signature.label
    require(
        spec.kind in ("image", "audio"),
        f"{artifact.id}: nothing judges its {spec.kind} {spec.name!r}, only images and sounds",
    )
    classes = 0 if label is None or label.range is None else int(label.range[1]) + 1
    name = find(DATA, source).name if source else guess(files.expanded(path)).source
    return TrainConfig(
        preset=artifact.manifest.source,
        model=ModelConfig(shape=spec.fixed_shape, num_classes=classes),
        data=DataConfig(
            source=name,
            path=files.expanded(path),
            range="-1..1" if name == "npz" else "",
            sample_rate_hz=spec.sample_rate_hz or DataConfig().sample_rate_hz,
        ),
    )


def evaluated(artifact: Artifact) -> str:
    """Signature that is evaluated: one that is drawn from a seed, or makes images of images.

    Raises ValueError if there is none.
    """
    name = restoration.judged(artifact.manifest.signatures)
    require(
        bool(name),
        f"{artifact.id}: no signature is drawn from a seed or makes images of images, so nothing"
        " judges it",
    )
    return name
