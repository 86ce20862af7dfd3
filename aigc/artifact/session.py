"""An opened artifact: onnxruntime sessions that take (seed, index, label) or tensors."""

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from aigc.artifact import steps
from aigc.artifact.codecs import to_uint8
from aigc.artifact.contract import Arrays, Contract, absent, setting
from aigc.artifact.manifest import (
    MANIFEST,
    ArtifactError,
    File,
    Level,
    Manifest,
    Reproducibility,
    Signature,
    TensorSpec,
    parse,
)
from aigc.artifact.store import locate
from aigc.artifact.vocabulary import Vocabulary

REPLAY_TOLERANCE = 1e-4
"""Largest |output - reference| / (1 + |reference|) at which a machine may serve an artifact."""
REPLAY_SOUND = 1e-3
"""The same of an artifact of sound: 60 dB below full scale. Finding phases multiplies what rounding
does, of one sound in a thousand ten times more than of most."""

_ORT_TYPES = {"float32": "tensor(float)", "int64": "tensor(int64)"}
_CHECKED = ("label", "text", "token", "setting", "presence")
"""Kinds of inputs that a graph may not be given out of range."""
_NUMPY_TYPES = {"float32": np.float32, "int64": np.int64}


class Artifact(Contract):
    """A sealed model, ready to sample.

    artifact = Artifact.open("artifacts/digits")
    artifact.sample(seed=7, n=4, label=3)["image"]      # (4, 1, 28, 28) float32 in [-1, 1]
    artifact.run("encode", {"image": images})           # any signature, tensors in and out
    """

    def __init__(
        self, manifest: Manifest, uri: str, files: Mapping[str, bytes], threads: int
    ) -> None:
        super().__init__(manifest)
        self.uri = uri
        self._files = {k: v for k, v in files.items() if k.startswith("references/")}
        self._sessions = {
            graph: _session(graph, files[graph], threads)
            for graph in {s.graph for s in manifest.signatures.values()}
        }
        for name, signature in manifest.signatures.items():
            if signature.step:
                steps.check(name, signature, manifest.signatures[signature.step])
            else:
                _check_graph(name, signature, self._sessions[signature.graph])

    @classmethod
    def open(cls, uri: str | Path, *, verify: bool = True, threads: int = 1) -> "Artifact":
        """Open a folder, `store/name` (the newest version) or `store/name@version`.

        Every file is hashed; with `verify` the reference samples are replayed as well. Raises
        ArtifactError when anything is missing, altered, of an unknown format or not reproduced.
        """
        where = locate(uri)
        fs, root = fsspec.core.url_to_fs(where)
        manifest = parse(fs.cat_file(f"{root}/{MANIFEST}"))
        files = {name: _read(fs, root, name, file) for name, file in manifest.files.items()}
        artifact = cls(manifest, where, files, threads)
        if verify:
            artifact.verify()
        return artifact

    def read(self, name: str) -> bytes:
        """A file of the artifact, its hash checked. Raises ArtifactError if there is none."""
        if name not in self.manifest.files:
            raise ArtifactError(f"{self.id} holds no file {name!r}")
        fs, root = fsspec.core.url_to_fs(self.uri)
        return _read(fs, root, name, self.manifest.files[name])

    def run(self, signature: str, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Run a graph: inputs by name with a batch axis first -> outputs by name.

        Settings and optional inputs may be left out, and the flags that say which of these are
        there. Raises ValueError as checked() does.
        """
        spec = self.signature(signature)
        feeds = self.checked(signature, inputs)
        if spec.step:
            return steps.whole(spec, *self._stepping(spec), feeds)
        return self._run(spec, feeds)

    def checked(self, signature: str, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Inputs as the graph takes them: settings filled in, every type and range as promised.

        One that goes by steps takes a `prefix` too, (N, L) as its output is: how each begins.
        Raises ValueError naming the tensor that is missing, unknown or of the wrong shape.
        """
        spec = self.signature(signature)
        if not spec.step or steps.PREFIX not in inputs:
            return _check_inputs(spec, inputs)
        begun = replace(spec.outputs[0], name=steps.PREFIX)
        return _check_inputs(replace(spec, inputs=(*spec.inputs, begun)), inputs)

    def writing(self, signature: str) -> steps.Writing:
        """Rows of a signature that goes by steps, none yet; they join with checked() inputs."""
        spec = self.signature(signature)
        return steps.Writing(spec, *self._stepping(spec))

    def _stepping(self, spec: Signature) -> tuple[Signature, steps.Run]:
        step = self.signature(spec.step)
        return step, lambda feeds: self._run(step, feeds)

    def _run(self, spec: Signature, feeds: Arrays) -> Arrays:
        names = [output.name for output in spec.outputs]
        return dict(zip(names, self._sessions[spec.graph].run(names, feeds), strict=True))

    def write(
        self, signature: str, inputs: Mapping[str, NDArray[Any]]
    ) -> Iterator[NDArray[np.int64]]:
        """What run() gives of a signature that goes by steps, as it comes: (N,) int64 per position.

        Ends when all texts have. Raises ValueError as run() does, or if it goes by no steps.
        """
        spec = self.signature(signature)
        if not spec.step:
            raise ValueError(f"signature {signature!r} of {self.id} gives all at once; use run")
        return steps.write(spec, *self._stepping(spec), self.checked(signature, inputs))

    def sample(
        self,
        signature: str = "sample",
        *,
        seed: int,
        n: int = 1,
        first_index: int = 0,
        label: int | Sequence[int] | None = None,
        batch: int = 64,
        settings: Mapping[str, float] | None = None,
    ) -> Arrays:
        """Samples first_index .. first_index + n - 1 of `seed`, outputs by name, batch axis first.

        Sample i is the same alone and in any batch, up to the artifact's reproducibility level.
        Raises ValueError as draw() does, and for n < 1.
        """
        if n < 1:
            raise ValueError(f"n must be >= 1, got {n}")
        parts = []
        for start in range(0, n, batch):
            stop = min(start + batch, n)
            part = label if label is None or isinstance(label, int) else label[start:stop]
            indices = range(first_index + start, first_index + stop)
            parts.append(self.run(signature, self.draw(signature, seed, indices, part, settings)))
        return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}

    def uint8(self, signature: str, outputs: Arrays) -> NDArray[np.uint8]:
        """The first image among `outputs` as (N, H, W, C) uint8. Raises ValueError if none."""
        for tensor in self.signature(signature).outputs:
            if tensor.kind == "image" and tensor.range is not None:
                return to_uint8(outputs[tensor.name], *tensor.range)
        raise ValueError(f"signature {signature!r} of {self.id} gives no image; take npy")

    def vocabulary(self, signature: str = "sample") -> Vocabulary:
        """That of the first text that a signature gives or takes. Raises ValueError if none."""
        spec = self.signature(signature)
        for tensor in (*spec.outputs, *spec.inputs):
            if tensor.kind == "text":
                return Vocabulary(tensor.vocabulary)
        raise ValueError(f"signature {signature!r} of {self.id} knows no text; take npy")

    def texts(self, signature: str, outputs: Arrays, stop: Sequence[str] = ()) -> list[str]:
        """The first text among `outputs`, decoded and cut before the first string of `stop`.

        Raises ValueError if there is none.
        """
        for tensor in self.signature(signature).outputs:
            if tensor.kind == "text":
                return Vocabulary(tensor.vocabulary).texts(outputs[tensor.name], stop)
        raise ValueError(f"signature {signature!r} of {self.id} gives no text; take npy")

    def verify(self) -> dict[str, Reproducibility]:
        """Replay the reference samples, at once and one by one; measure this machine's level.

        Raises ArtifactError if an output is further than tolerance() from its reference.
        """
        for name, spec in self.manifest.signatures.items():
            inputs, expected = self.references(name)
            size = len(next(iter(inputs.values())))
            try:
                together = self.run(name, inputs)
                alone = [
                    self.run(name, {k: v[i : i + 1] for k, v in inputs.items()})
                    for i in range(size)
                ]
            except Exception as error:  # onnxruntime raises types without a common base
                raise ArtifactError(f"{self.id}: references of {name!r}: {error}") from error
            single = {k: np.concatenate([part[k] for part in alone]) for k in together}
            found = [compare(spec, expected, outputs) for outputs in (together, single)]
            worst = max(found, key=lambda r: r.max_abs)
            allowed = tolerance(spec)
            if not worst.max_abs <= allowed:
                raise ArtifactError(
                    f"{self.id} does not reproduce its references on this machine: signature"
                    f" {name!r} is off by {worst.max_abs:.2g}, allowed is {allowed:.0e}"
                )
            self.reproducibility[name] = worst
        return self.reproducibility

    def references(self, signature: str) -> tuple[Arrays, Arrays]:
        """The reference inputs and outputs that export stored for a signature.

        Raises ArtifactError if there are none or they do not fit the signature.
        """
        spec = self.signature(signature)
        file = f"references/{signature}.npz"
        if file not in self._files:
            raise ArtifactError(f"{self.id} has no references for signature {signature!r}")
        try:
            with np.load(io.BytesIO(self._files[file]), allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
        except Exception as error:  # numpy, zipfile and zlib raise types without a common base
            raise ArtifactError(f"{self.id}: {file} is no archive of arrays: {error}") from error
        tensors = {f"in/{s.name}": s for s in spec.inputs}
        tensors |= {f"out/{s.name}": s for s in spec.outputs}
        rows = {len(array) if array.ndim else 0 for array in arrays.values()}
        promised = {name: (s.shape, s.dtype) for name, s in tensors.items()}
        found = {name: (a.shape[1:], str(a.dtype)) for name, a in arrays.items()}
        if promised != found or len(rows) != 1 or 0 in rows:
            raise ArtifactError(
                f"{self.id}: references of signature {signature!r} do not fit it:"
                f" {found}, {sorted(rows)} rows, promised {promised}"
            )
        return (
            {s.name: arrays[f"in/{s.name}"] for s in spec.inputs},
            {s.name: arrays[f"out/{s.name}"] for s in spec.outputs},
        )


def read_manifest(uri: str) -> Manifest:
    """The manifest of one artifact folder; its files are not looked at. Raises ArtifactError."""
    fs, root = fsspec.core.url_to_fs(uri)
    try:
        return parse(fs.cat_file(f"{root}/{MANIFEST}"))
    except FileNotFoundError:
        raise ArtifactError(f"{uri} is no artifact: it holds no {MANIFEST}") from None


def compare(signature: Signature, expected: Arrays, found: Arrays) -> Reproducibility:
    """How equal two runs of a signature are; max_abs is relative to 1 + |expected|."""
    level: Level = "bit"
    worst = 0.0
    for tensor in signature.outputs:
        a, b = expected[tensor.name], found[tensor.name]
        if a.shape != b.shape:
            return Reproducibility(level="tolerance", max_abs=float("inf"))
        if a.tobytes() == b.tobytes():
            continue
        error = float(np.max(np.abs(a - b) / (1 + np.abs(a))))
        worst = max(worst, error if np.isfinite(error) else float("inf"))
        same_pixels = (
            np.isfinite(error)
            and tensor.kind == "image"
            and tensor.range is not None
            and np.array_equal(to_uint8(a, *tensor.range), to_uint8(b, *tensor.range))
        )
        level = "uint8" if same_pixels and level != "tolerance" else "tolerance"
    return Reproducibility(level=level, max_abs=worst)


def tolerance(signature: Signature) -> float:
    """How far outputs may be from their references, as compare() measures it."""
    sound = any(tensor.kind == "audio" for tensor in signature.outputs)
    return REPLAY_SOUND if sound else REPLAY_TOLERANCE


def _session(name: str, graph: bytes, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # A spinning thread steals the core from the replica's event loop and from its neighbours.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    available = ort.get_available_providers()
    providers = [provider for provider in wanted if provider in available]
    try:
        return ort.InferenceSession(graph, options, providers=providers)
    except Exception as error:  # onnxruntime raises pybind types without a common base
        raise ArtifactError(f"graph {name!r} is not one that onnxruntime loads: {error}") from error


def _read(fs: Any, root: str, name: str, file: File) -> bytes:
    try:
        data: bytes = fs.cat_file(f"{root}/{name}")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise ArtifactError(f"{root}: file {name!r} of the manifest is missing") from None
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise ArtifactError(
            f"{root}: {name!r} was altered: {len(data)} bytes with another sha256 than the"
            f" manifest's ({file.bytes} bytes)"
        )
    return data


def _check_graph(name: str, signature: Signature, session: ort.InferenceSession) -> None:
    for what, specs, nodes in (
        ("input", signature.inputs, session.get_inputs()),
        ("output", signature.outputs, session.get_outputs()),
    ):
        promised = {s.name: (_ORT_TYPES[s.dtype], s.shape) for s in specs}
        found = {node.name: (node.type, tuple(node.shape[1:])) for node in nodes}
        if promised != found:
            raise ArtifactError(
                f"signature {name!r} promises {what}s {promised}, its graph has {found}"
            )
        fixed = [node.name for node in nodes if isinstance(node.shape[0], int)]
        if fixed:
            raise ArtifactError(
                f"the batch axis of {what} {fixed[0]!r} of signature {name!r} is fixed; it must be"
                " free: export with a dynamic batch"
            )


def _check_inputs(signature: Signature, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
    expected = {spec.name for spec in signature.inputs}
    if optional := signature.optional:
        if not {spec.name for spec in optional} & set(inputs):
            names = ", ".join(spec.name for spec in optional)
            raise ValueError(f"inputs must have at least one of {names}, got {sorted(inputs)}")
        rows = len(next(iter(inputs.values())))
        inputs = {**inputs, **absent(signature, inputs.keys(), rows)}
    left_out = {s for s in signature.inputs if s.default is not None and s.name not in inputs}
    if set(inputs) != expected - {spec.name for spec in left_out}:
        raise ValueError(f"inputs must be {sorted(expected)}, got {sorted(inputs)}")
    if left_out:
        n = len(next(iter(inputs.values()), ()))
        inputs = {**inputs, **{s.name: setting(s, s.default, n) for s in left_out}}
    feeds: Arrays = {}
    sizes = set()
    for spec in signature.inputs:
        array = np.asarray(inputs[spec.name])
        if array.shape[1:] != spec.shape or array.ndim != 1 + len(spec.shape) or not len(array):
            raise ValueError(
                f"{spec.name} must have shape (N, {', '.join(map(str, spec.shape))}) with N >= 1,"
                f" got {array.shape}"
            )
        if spec.range is not None and spec.kind in _CHECKED:
            _check_range(spec, array)
        feeds[spec.name] = np.ascontiguousarray(array, _NUMPY_TYPES[spec.dtype])
        sizes.add(len(array))
    if len(sizes) != 1:
        raise ValueError(f"inputs must share one batch size, got {sorted(sizes)}")
    return feeds


def _check_range(spec: TensorSpec, array: NDArray[Any]) -> None:
    assert spec.range is not None
    low, high = spec.range
    bad = array[(array < low) | (array > high)]
    if bad.size:
        closed = spec.kind in ("setting", "presence")
        span = f"[{low:g}, {high:g}]" if closed else f"[{low:g}, {high + 1:g})"
        raise ValueError(f"{spec.name} must be in {span}, got {bad.flat[0]}")
