"""`aigc.export` and `aigc.evaluate`: the commands of the same names as functions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from aigc.artifact import Artifact, Store, signing
from aigc.artifact.precision import ReducedPrecision
from aigc.commands import evaluate as evaluation
from aigc.commands import export as exporting
from aigc.commands.licence import ask, checked
from aigc.metrics import Evaluation
from aigc.training.run import Run


def export(
    run: Run | str | Path,
    *,
    name: str,
    version: str = "",
    out: str | Path = "artifacts",
    licence: str = "",
    precision: ReducedPrecision | Literal["float32"] = "float32",
    max_quality_loss: float | None = None,
    weights: bool = False,
    sign: str = "",
) -> Artifact:
    """Seal the averaged weights of a run as an ONNX artifact that was checked against torch.

    run: a Run, its folder, or its URI on an object store. version: by default one more than the
    newest of that name. out: the store, a folder or an object-store URI. licence: SPDX identifier
    of the weights' licence, unstated if not given. precision: numbers inside of the graphs, whose
    cost the manifest states: float16, int8 (weights alone) or int8-conv. max_quality_loss:
    largest Metric.quality_loss of reduced precision, by the run's data. weights: also store the
    weights of the whole model, so that runs can start from the artifact. sign: private key (PEM) to
    sign it with; needs aigc[sign].

    Raises ValueError if the run has no checkpoint, the version exists already, the graph differs
    from torch by more than the parity budget, or reduced precision loses more than is allowed.
    """
    run = run if isinstance(run, Run) else Run.open(str(run))
    uri = exporting.export(
        run,
        name=name,
        version=version,
        store=Store(str(out)),
        licence=checked(licence),
        precision=precision,
        max_quality_loss=max_quality_loss,
        weights=weights,
        sign=sign,
    )
    ask(licence)
    return Artifact.open(uri, verify=False)


def evaluate(
    artifact: Artifact | str | Path,
    *,
    data: str | Path = "",
    source: str = "",
    metrics: Sequence[str] = (),
    features: Sequence[str] = (),
    neighbours: str | Path = "",
    float32: str | Path = "",
    n: int = 2000,
    seed: int = 0,
    picture: str | Path = "",
    write: bool = False,
    sign: str = "",
) -> Evaluation:
    """Metrics of an artifact's first n samples of a seed, beside those of real data.

    artifact: an Artifact, its folder, STORE/NAME or STORE/NAME@VERSION. data: place of the real
    data; by default that of the training run. source: data source in place of the training run's;
    code of a user's is never run because an artifact names it, so it must be given. metrics: names
    of metrics of pictures (docs/metrics.md) in place of the quick default ones, or files or modules
    of metrics, or modalities, in place of those of the samples' modality. features: networks for
    metrics of pictures: FILE.onnx, FILE.py, runs or artifacts. neighbours: PNG to write, of samples
    beside the nearest training and test pictures. float32: the
    same weights in float32, for an artifact of reduced precision, of which the metrics get
    `float32` values and a `quality_loss`. picture: PNG to write, of real samples above generated
    ones. write: put the metrics into the manifest and the model card of a local artifact. sign:
    with write, the private key to sign it with again, if it was signed.

    The result is iterated over: each metric has name, value, floor (what real data score, None if
    unknown), better (`higher`, `lower` or `real`), interval (95 %, None if unknown) and note, a
    reason to doubt it. Raises ValueError if the data cannot be read or do not fit the model, or if
    nothing judges such samples.
    """
    if not isinstance(artifact, Artifact):
        artifact = Artifact.open(str(artifact), verify=False, trust=signing.wanted(""))
    options = evaluation.Options(
        artifact=artifact.uri,
        data=str(data),
        source=source,
        metrics=tuple(metrics),
        features=tuple(features),
        neighbours=str(neighbours),
        float32=str(float32),
        n=n,
        seed=seed,
        picture=str(picture),
        write=write,
        sign=sign,
    )
    return evaluation.run(artifact, options)
