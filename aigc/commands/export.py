"""`aigc export RUN --name NAME`: a run's signatures as ONNX graphs in a sealed artifact.

It exports the averaged weights in eval mode, checks onnxruntime against torch, measures how
reproducible the graphs are, stores reference samples and seals the folder.
"""

import datetime
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import tyro
from safetensors.torch import save_file

from aigc import own_code
from aigc.artifact import Manifest, Signature, Store, TensorSpec, preprocessing, signing
from aigc.artifact.manifest import UNSTATED, WEIGHTS, Training, check_name
from aigc.artifact.precision import ReducedPrecision
from aigc.commands import licence
from aigc.commands.calibration_data import data_inputs
from aigc.commands.quality_loss import judge
from aigc.config import require
from aigc.data_report import facts as data_facts
from aigc.model import GenerativeModel
from aigc.sealing.artifact_folder import seal_graphs
from aigc.sealing.onnx_export import run_module, write_graphs
from aigc.sealing.precision import Reduction
from aigc.training import run_folder
from aigc.training.run import Run


@dataclass(frozen=True, kw_only=True)
class Options:
    """Export a run as a sealed artifact."""

    run: tyro.conf.Positional[str]
    """Folder of the run, such as runs/digits, or its URI on an object store."""
    name: str
    """Name of the artifact."""
    version: str = ""
    """Version; by default one more than the newest."""
    out: str = "artifacts"
    """Store: a folder or an object-store URI."""
    licence: str = ""
    """SPDX identifier of the weights' licence; unstated if not given."""
    precision: Literal["float32", "float16", "int8", "int8-conv"] = "float32"
    """Numbers inside of the graphs. float16: half the bytes. int8: weights alone, a quarter.
    int8-conv: also what convolutions take, which CPUs compute faster, in ranges that they have of
    the run's data. The manifest states what they cost."""
    max_quality_loss: float | None = None
    """With --precision: evaluate it and float32 on the run's data, state the metrics of both, and
    refuse one that is worse by more than this share of float32's value (or of real data's, if that
    is larger), such as 0.05. May take minutes."""
    weights: bool = False
    """Also store the weights of the whole model, so that runs can start from the artifact."""
    sign: str = ""
    """Private key (PEM, of an elliptic curve) to sign it with; needs aigc[sign]."""

    def __post_init__(self) -> None:
        _check_loss(self.precision, self.max_quality_loss)


def command(argv: list[str]) -> int:
    """Seal a run as an ONNX artifact that was checked against torch."""
    options = tyro.cli(Options, args=argv, prog="aigc export", description=Options.__doc__)
    run = Run.open(options.run)
    if rule := run_folder.ended_by_rule(run.folder):
        print(
            f"{rule['rule']} ended the run: its best checkpoint is exported, of"
            f" {rule['best']:,} samples",
            file=sys.stderr,
        )
    uri = export(
        run,
        name=options.name,
        version=options.version,
        store=Store(options.out),
        licence=licence.checked(options.licence),
        precision=options.precision,
        max_quality_loss=options.max_quality_loss,
        weights=options.weights,
        sign=options.sign,
    )
    licence.ask(options.licence)
    print(uri)
    return 0


def export(
    run: Run,
    *,
    name: str,
    version: str = "",
    store: Store,
    licence: str = UNSTATED,
    precision: ReducedPrecision | Literal["float32"] = "float32",
    max_quality_loss: float | None = None,
    weights: bool = False,
    sign: str = "",
) -> str:
    """Export a run's newest checkpoint, or the best one if a rule ended it, into a store. Returns
    the URI of the artifact.

    `sign` is a private key. Raises ValueError if the run has no checkpoint, the version exists
    already, a graph exceeds the parity budget or cannot be reduced, reduced graphs lose more
    quality than allowed, or signing fails; nothing is published then.
    """
    _check_loss(precision, max_quality_loss)
    if sign:
        signing.check_key(sign)
    check_name(name)
    version = version or store.next_version(name)
    store.check_free(name, version)
    config, checkpoint = run.config(), run.result()
    facts = run.facts(checkpoint)
    model = run.load_state(checkpoint).ema_model().float()
    manifest = Manifest(
        name=name,
        version=version,
        family=model.family,
        model=config.model_name,
        preset=config.preset.partition(":")[2],
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        licence=licence,
        signatures={},
        reproducibility={},
        parity={},
        training=Training(
            config=config.to_json() | own_code.record(config),
            samples=facts["samples"],
            data=facts["data"] | data_facts.read_facts(run.folder),
            wall_seconds=facts["wall_seconds"],
            workers=facts["workers"],
            cost=facts.get("cost"),
        ),
    )
    with tempfile.TemporaryDirectory(prefix="aigc-export-") as temporary:
        folder = Path(temporary) / name  # model.sig holds the folder's name
        folder.mkdir()
        if weights:
            named = {name: value.contiguous() for name, value in model.state_dict().items()}
            save_file(named, folder / WEIGHTS)
        reduction = None
        if precision != "float32":
            judges = None if max_quality_loss is None else judge(config, max_quality_loss)
            reduction = Reduction(precision, judges, data_inputs(config))
        write_artifact(model, tuple(facts["data"]["classes"]), manifest, folder, reduction)
        if sign:
            signing.sign(folder, sign)
        return store.publish(folder)


def _check_loss(precision: str, max_quality_loss: float | None) -> None:
    """Raise ValueError for a quality loss that is none, or of float32."""
    if max_quality_loss is None:
        return
    require(
        max_quality_loss >= 0,
        f"max_quality_loss is a share of float32's metrics and >= 0, got {max_quality_loss}",
    )
    require(
        precision != "float32",
        "max_quality_loss has no effect on float32; give a precision of float16, int8 or int8-conv",
    )


def write_artifact(
    model: GenerativeModel,
    classes: tuple[str, ...],
    manifest: Manifest,
    folder: Path,
    reduction: Reduction | None = None,
) -> Manifest:
    """Write a model in eval mode as a sealed folder; `manifest` holds name and provenance.

    Raises ValueError if a graph exceeds the parity budget or cannot be reduced, or if its tiles or
    chunks do not equal the whole.
    """
    data = manifest.training.data if manifest.training else {}
    vocabulary = tuple(data.get("vocabulary", ()))
    exports = {
        name: replace(part, signature=_with_facts(part.signature, classes, vocabulary, data))
        for name, part in model.exports().items()
    }
    write_graphs(exports, folder)
    signatures = {name: part.signature for name, part in exports.items()}
    modules = {name: partial(run_module, part) for name, part in exports.items()}
    tiled = [name for name, part in exports.items() if part.tile]
    chunked = [name for name, part in exports.items() if part.chunk]
    return seal_graphs(
        signatures,
        manifest,
        folder,
        modules,
        reduction=reduction,
        tiled=tiled,
        chunked=chunked,
    )


def _with_facts(
    signature: Signature,
    classes: tuple[str, ...],
    vocabulary: tuple[str, ...],
    data: Mapping[str, Any],
) -> Signature:
    """Add the facts of the data, by their fingerprint: names of classes and tokens, sample rate,
    and preprocessing."""
    rate_hz = int(data.get("sample_rate_hz", 0))
    kept = data.get("level") == "kept"

    def with_facts(spec: TensorSpec) -> TensorSpec:
        if spec.kind == "label":
            return replace(spec, classes=classes)
        if spec.kind == "audio":
            return replace(spec, sample_rate_hz=rate_hz)
        return replace(spec, vocabulary=vocabulary) if spec.kind == "text" else spec

    inputs, outputs = (
        tuple(map(with_facts, specs)) for specs in (signature.inputs, signature.outputs)
    )
    inputs = tuple(
        replace(
            spec, preprocessing=preprocessing.default_for(spec.kind, free=spec.is_free, kept=kept)
        )
        for spec in inputs
    )
    return replace(signature, inputs=inputs, outputs=outputs)
