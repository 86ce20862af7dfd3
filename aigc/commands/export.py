"""`aigc export RUN --name NAME`: a run's signatures as ONNX graphs in a sealed artifact.

It exports the averaged weights in eval mode, checks onnxruntime against torch, measures how
reproducible the graphs are, stores reference samples and seals the folder.
"""

import datetime
import logging
import math
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import tyro
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn

from aigc.artifact import (
    Manifest,
    Signature,
    Store,
    TensorSpec,
    autoregressive,
    latents,
    preprocessing,
    signing,
)
from aigc.artifact.image_files import grid, png, to_uint8
from aigc.artifact.manifest import (
    WEIGHTS,
    Level,
    Parity,
    Reproducibility,
    Training,
    check_name,
    seal,
)
from aigc.artifact.model_card import card
from aigc.artifact.runtime import ort
from aigc.artifact.sampling_inputs import Arrays, is_picture, setting
from aigc.artifact.session import compare, tolerance
from aigc.data_report import facts as data_facts
from aigc.model import Export, GenerativeModel
from aigc.training.run import Run

PARITY_MAX_ABS = 1e-5
"""Largest |torch - onnx| of outputs, but for sounds and texts."""
PARITY_SOUND = 1e-4
"""Largest difference of 99 % of sounds: three steps of 16 bits. Phase reconstruction amplifies
rounding errors, of a few sounds so much that a bound for all could not tell a wrong graph."""
PARITY_UINT8 = 1e-4
"""Largest share of unsaturated pixels that may differ."""
PARITY_BATCHES = (1, 2, 3, 7, 64)
PARITY_SAMPLES = 1024
PARITY_TEXTS = 128
"""Samples of autoregressive signatures, whose step is checked by its own signature."""
PARITY_DIFFERENT = 0.02
"""Largest share of token rows that may differ: a draw near the boundary of two tokens may flip."""
REFERENCES = 16
"""Samples that are stored for a replica to replay."""


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
    licence: str = "Apache-2.0"
    """SPDX identifier of the weights' licence."""
    weights: bool = False
    """Also store the weights of the whole model, so that runs can start from the artifact."""
    sign: str = ""
    """Private key (PEM, of an elliptic curve) to sign it with; needs aigc[sign]."""


def command(argv: list[str]) -> int:
    """Seal a run as an ONNX artifact that was checked against torch."""
    options = tyro.cli(Options, args=argv, prog="aigc export", description=Options.__doc__)
    uri = export(
        Run.open(options.run),
        name=options.name,
        version=options.version,
        store=Store(options.out),
        licence=options.licence,
        weights=options.weights,
        sign=options.sign,
    )
    print(uri)
    return 0


def export(
    run: Run,
    *,
    name: str,
    version: str = "",
    store: Store,
    licence: str = "Apache-2.0",
    weights: bool = False,
    sign: str = "",
) -> str:
    """Export a run's newest checkpoint into a store. Returns the URI of the artifact.

    `sign` is a private key. Raises ValueError if the run has no checkpoint, the version exists
    already, a graph exceeds the parity budget, or signing fails; nothing is published then.
    """
    if sign:
        signing.check_key(sign)
    check_name(name)
    version = version or store.next_version(name)
    store.check_free(name, version)
    config, facts = run.config(), run.facts()
    model = run.load_state().ema_model().float()
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
            config=config.to_json(),
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
        write_artifact(model, tuple(facts["data"]["classes"]), manifest, folder)
        if sign:
            signing.sign(folder, sign)
        return store.publish(folder)


def write_artifact(
    model: GenerativeModel, classes: tuple[str, ...], manifest: Manifest, folder: Path
) -> Manifest:
    """Write a model in eval mode as a sealed folder; `manifest` holds name and provenance.

    Raises ValueError if a graph exceeds the parity budget.
    """
    data = manifest.training.data if manifest.training else {}
    signatures: dict[str, Signature] = {}
    parity: dict[str, Parity] = {}
    reproducibility: dict[str, Reproducibility] = {}
    (folder / "references").mkdir()
    exports = model.exports()
    vocabulary = tuple(data.get("vocabulary", ()))
    rate_hz = int(data.get("sample_rate_hz", 0))
    for name, part in exports.items():
        signature = _with_facts(part.signature, classes, vocabulary, rate_hz)
        step = exports[signature.step] if signature.step else None
        graph = folder / signature.graph
        if not graph.exists():
            to_onnx(step or part, graph)
        run = _runner(graph.read_bytes(), signature, step.signature if step else None)
        inputs = example(signature, PARITY_TEXTS if step else PARITY_SAMPLES)
        expected = _run_torch(part.module, signature, inputs)
        parity[name] = prove_parity(name, signature, run(1), inputs, expected)
        reproducibility[name] = _measure(signature, run, inputs)
        few = {key: value[:REFERENCES] for key, value in inputs.items()}
        outputs = _run_onnx(run(1), few)
        arrays = {f"in/{k}": v for k, v in few.items()} | {
            f"out/{k}": v for k, v in outputs.items()
        }
        np.savez(folder / "references" / f"{name}.npz", **arrays)  # type: ignore[arg-type]
        signatures[name] = signature
    manifest = replace(
        manifest, signatures=signatures, parity=parity, reproducibility=reproducibility
    )
    _picture(folder, signatures["sample"])
    (folder / "README.md").write_text(card(manifest))
    return seal(folder, manifest)


def to_onnx(part: Export, path: Path) -> None:
    """Write one graph with a free batch axis and its weights inside."""
    specs = part.signature.inputs
    inputs = tuple(torch.from_numpy(a) for a in example(part.signature, 2).values())
    batch = torch.export.Dim("batch", min=1, max=2**20)
    with _quiet():
        program = torch.onnx.export(
            part.module.eval(),
            inputs,
            dynamo=True,
            external_data=False,
            input_names=[spec.name for spec in specs],
            output_names=[spec.name for spec in part.signature.outputs],
            dynamic_shapes=tuple({0: batch} for _ in specs),
            verbose=False,
        )
    assert program is not None
    program.save(str(path), external_data=False)
    _strip(path)


def _strip(path: Path) -> None:
    """Remove torch's metadata on the origin of each node, which holds paths of this machine."""
    graph = onnx.load(path)
    for part in (graph.graph, *graph.functions):
        del part.metadata_props[:]
        for item in (*part.node, *part.value_info):
            del item.metadata_props[:]
    onnx.save(graph, path)


def example(signature: Signature, n: int) -> Arrays:
    """Random inputs within each tensor's range: {name: (n, *shape)}."""
    return {spec.name: _draw(spec, n) for spec in signature.inputs}


def _draw(spec: TensorSpec, n: int) -> NDArray[Any]:
    if spec.kind == "setting":
        return setting(spec, spec.default, n)
    if spec.kind == "uniform":
        return latents.uniform(0, range(n), spec.fixed_shape, spec.name)
    if spec.kind == "presence":
        # Every combination, including no input at all.
        return (latents.uniform(0, range(n), spec.fixed_shape, spec.name) < 0.5).astype(np.float32)
    if spec.kind == "label":
        assert spec.range is not None
        return latents.labels(0, range(n), int(spec.range[1]) + 1)
    if spec.kind in ("text", "token"):
        assert spec.range is not None
        size = int(spec.range[1]) + 1
        drawn = latents.uniform(0, range(n), spec.fixed_shape, spec.kind) * np.float32(size)
        return drawn.astype(np.int64)
    values = latents.normal(0, range(n), spec.fixed_shape, spec.kind)
    return values if spec.range is None else values.clip(*spec.range).astype(np.float32)


def _with_facts(
    signature: Signature, classes: tuple[str, ...], vocabulary: tuple[str, ...], rate_hz: int
) -> Signature:
    """Add the facts of the data: names of classes and tokens, sample rate, and preprocessing."""

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
        replace(spec, preprocessing=preprocessing.default_for(spec.kind)) for spec in inputs
    )
    return replace(signature, inputs=inputs, outputs=outputs)


def _run_torch(module: nn.Module, signature: Signature, inputs: Arrays) -> Arrays:
    with torch.no_grad():
        outputs = module.eval()(*(torch.from_numpy(value) for value in inputs.values()))
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    names = [spec.name for spec in signature.outputs]
    return {name: value.numpy() for name, value in zip(names, outputs, strict=True)}


def _session(graph: bytes, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    # A thread that spins while it waits takes a core from the thread that it waits for.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _runner(
    graph: bytes, signature: Signature, step: Signature | None
) -> Callable[[int], autoregressive.Run]:
    """Function from a number of threads to a runner of the signature, autoregressive or not."""

    def with_threads(threads: int) -> autoregressive.Run:
        session = _session(graph, threads)
        names = [spec.name for spec in (step or signature).outputs]

        def once(feeds: Arrays) -> Arrays:
            return dict(zip(names, session.run(names, feeds), strict=True))

        if step is None:
            return once
        return lambda feeds: autoregressive.generate(signature, step, once, feeds)

    return with_threads


def _run_onnx(run: autoregressive.Run, inputs: Arrays, batch: int = 64) -> Arrays:
    size = len(next(iter(inputs.values())))
    parts = [
        run({key: value[i : i + batch] for key, value in inputs.items()})
        for i in range(0, size, batch)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def prove_parity(
    name: str, signature: Signature, run: autoregressive.Run, inputs: Arrays, expected: Arrays
) -> Parity:
    """Compare torch and onnxruntime over batch sizes. Raises ValueError beyond the budget."""
    usual, worst, pixels, texts = 0.0, 0.0, 0.0, 0.0  # the last two: shares that differ
    for batch in PARITY_BATCHES:
        actual = _run_onnx(run, inputs, batch)
        for spec in signature.outputs:
            a, b = expected[spec.name], actual[spec.name]
            if spec.kind == "text" and a.shape == b.shape:
                texts = max(texts, float((a != b).any(1).mean()))
                continue
            errors = row_errors(a, b, spec) if a.shape == b.shape else np.array([math.inf])
            usual = max(usual, float(np.quantile(errors, 0.99, method="lower")))
            worst = max(worst, float(errors.max()))
            if spec.kind == "image" and spec.range is not None and math.isfinite(worst):
                pixels = max(pixels, _mismatch_share(a, b, spec.range))
    if texts > PARITY_DIFFERENT:
        raise ValueError(
            f"signature {name!r} is not exported faithfully: {texts:.2g} of its texts differ"
            f" between torch and onnx (allowed {PARITY_DIFFERENT:g})"
        )
    for_most, for_all = budget(signature)
    if not (usual <= for_most and worst <= for_all and pixels <= PARITY_UINT8):
        raise ValueError(
            f"signature {name!r} is not exported faithfully: max |torch - onnx| is {worst:.2g}"
            f" (allowed {for_all:.0e}), of 99 rows in a hundred {usual:.2g}"
            f" (allowed {for_most:.0e}), share of differing pixels {pixels:.2g}"
            f" (allowed {PARITY_UINT8:.0e})"
        )
    return Parity(
        max_abs=worst,
        uint8_mismatch=max(pixels, texts),
        samples=len(next(iter(inputs.values()))),
        batch_sizes=PARITY_BATCHES,
    )


def row_errors(
    a: NDArray[np.float32], b: NDArray[np.float32], spec: TensorSpec
) -> NDArray[np.float64]:
    """(n,) largest |a - b| of each row, inf for NaN.

    Values without bounds, such as logits, are compared relative to 1 + |a|.
    """
    error = np.abs(a - b) / (1 if spec.range is not None else 1 + np.abs(a))
    worst: NDArray[np.float64] = error.reshape(len(a), -1).max(1)
    return np.where(np.isnan(worst), np.inf, worst)


def budget(signature: Signature) -> tuple[float, float]:
    """Largest |torch - onnx| of an artifact: of 99 % of the rows, and of every row."""
    if any(spec.kind == "audio" for spec in signature.outputs):
        return PARITY_SOUND, tolerance(signature)
    return PARITY_MAX_ABS, PARITY_MAX_ABS


def _mismatch_share(
    a: NDArray[np.float32], b: NDArray[np.float32], span: tuple[float, float]
) -> float:
    """Share of uint8 values that differ among those that are not saturated in both."""
    x, y = to_uint8(a, *span), to_uint8(b, *span)
    inside = ~((x == y) & ((x == 0) | (x == 255)))
    return float((x != y).sum() / max(1, inside.sum()))


def _measure(
    signature: Signature, run: Callable[[int], autoregressive.Run], inputs: Arrays
) -> Reproducibility:
    """Equality of outputs over batch sizes and thread counts on this machine."""
    few = {key: value[:64] for key, value in inputs.items()}
    expected = _run_onnx(run(1), few)
    results = [
        compare(signature, expected, _run_onnx(run(threads), few, batch))
        for threads in (1, 2)
        for batch in PARITY_BATCHES
    ]
    order: tuple[Level, ...] = ("bit", "uint8", "tolerance")
    level = max((r.level for r in results), key=order.index)
    return Reproducibility(level=level, max_abs=max(r.max_abs for r in results))


def _picture(folder: Path, signature: Signature) -> None:
    """Write samples.png of the model card."""
    spec = signature.outputs[0]
    if not is_picture(spec) or spec.range is None:
        return
    run = _runner((folder / signature.graph).read_bytes(), signature, None)(1)
    n = 80
    inputs = {s.name: _draw(s, n) for s in signature.inputs}
    if signature.label is not None:
        inputs[signature.label.name] = np.arange(n) % 10 % len(signature.label.classes)
    images = _run_onnx(run, inputs)[spec.name]
    (folder / "samples.png").write_bytes(png(grid(to_uint8(images, *spec.range), 10)))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch.onnx, which warns about torchvision and its own internals."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
