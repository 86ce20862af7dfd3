"""An opened artifact: onnxruntime sessions that take (seed, index, label) or tensors."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc.artifact import autoregressive
from aigc.artifact.axes import Shape, Sizes
from aigc.artifact.axes import label as label_of
from aigc.artifact.comparison import compare, replay_loss, tolerance
from aigc.artifact.folder import Contents, SealedFolder
from aigc.artifact.graph_session import open_session, provider_of
from aigc.artifact.image_files import to_uint8
from aigc.artifact.latents import Whole, is_one, whole
from aigc.artifact.manifest import (
    ArtifactError,
    Manifest,
    Reproducibility,
    Signature,
)
from aigc.artifact.outputs import check_shapes
from aigc.artifact.providers import Provider, ProviderOptions, Taken
from aigc.artifact.references import read_references, reference_file, reference_sizes
from aigc.artifact.runtime import ort
from aigc.artifact.sampling_inputs import Arrays, ArtifactSpec
from aigc.artifact.signing import Trust
from aigc.artifact.store import locate
from aigc.artifact.vocabulary import Vocabulary

TILES = 8
"""Most tiles of the default sizes in one run of the graph."""

_ORT_TYPES = {"float32": "tensor(float)", "int64": "tensor(int64)"}


class Artifact(ArtifactSpec):
    """A sealed model, ready to sample.

    artifact = Artifact.open("artifacts/digits")
    artifact.sample(seed=7, n=4, label=3)["image"]      # (4, 1, 28, 28) float32 in [-1, 1]
    artifact.run("encode", {"image": images})           # any signature, tensors in and out

    Without an `arena` graphs run on the CPU, and memory is freed as soon as it is not used.
    """

    def __init__(
        self,
        manifest: Manifest,
        uri: str,
        contents: Contents,
        threads: int,
        arena: bool = True,
        options: ProviderOptions = ProviderOptions(),  # noqa: B008 - it is frozen
    ) -> None:
        super().__init__(manifest)
        self.uri = uri
        self._options = ort.RunOptions()
        self._references = contents.references
        self._sessions = {
            graph: open_session(
                manifest,
                graph,
                data,
                contents.weights.get(graph, {}),
                threads=threads,
                arena=arena,
                options=options,
            )
            for graph, data in contents.graphs.items()
        }
        self.provider: Taken = provider_of(self._sessions)
        """Execution provider of the graphs."""
        self._bounded = contents.bounded
        """Graphs without a loop."""
        for name, signature in manifest.signatures.items():
            if signature.step:
                autoregressive.check(name, signature, manifest.signatures[signature.step])
            else:
                _check_graph(name, signature, self._sessions[signature.graph])

    @classmethod
    def open(
        cls,
        uri: str | Path,
        *,
        verify: bool = True,
        threads: int = 1,
        trust: Trust | None = None,
        provider: Provider = "auto",
    ) -> "Artifact":
        """Open a folder, `store/name` (the newest version) or `store/name@version`.

        Every file is hashed; with `verify` the reference samples are replayed as well, with `trust`
        it must be signed. `provider`: cpu, cuda or tensorrt runs it there or raises ProviderError,
        auto takes cuda where there is one. Raises ArtifactError when anything is missing, altered,
        of an unknown format, not signed or not reproduced, or when a graph is not one that an
        artifact may have.
        """
        folder = SealedFolder.open(locate(uri), trust)
        folder.check()
        contents = folder.contents(*folder.graphs())
        options = ProviderOptions(provider=provider)
        artifact = cls(folder.manifest, folder.uri, contents, threads, options=options)
        if verify:
            artifact.verify()
        return artifact

    def read(self, name: str) -> bytes:
        """A file of the artifact, its hash checked. Raises ArtifactError if there is none."""
        return SealedFolder(uri=self.uri, manifest=self.manifest, manifest_bytes=b"").read(name)

    def run(self, signature: str, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Run a graph: inputs by name with a batch axis first -> outputs by name.

        Settings may be left out, and so may optional inputs and their flags of kind presence.
        The sizes of free axes are those of the inputs; a sample beyond their bounds is made of
        tiles where the signature has them. Raises ValueError as checked() does, for sizes that are
        not allowed, too, OutputError for outputs of another shape than the signature's.
        """
        spec = self.signature(signature)
        feeds = self.checked(signature, inputs)
        if spec.step:
            return autoregressive.generate(spec, *self._step_graph(spec), feeds)
        return self._run(spec, feeds)

    def checked(self, signature: str, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """complete() with each array contiguous, as graphs take them. Raises ValueError too."""
        whole = self.complete(signature, inputs)
        return {name: np.ascontiguousarray(array) for name, array in whole.items()}

    def token_decoder(self, signature: str) -> autoregressive.TokenDecoder:
        """An empty decoder of an autoregressive signature; rows join with checked() inputs."""
        spec = self.signature(signature)
        return autoregressive.TokenDecoder(spec, *self._step_graph(spec))

    def _step_graph(self, spec: Signature) -> tuple[Signature, autoregressive.Run]:
        step = self.signature(spec.step)
        return step, lambda feeds: self._run(step, feeds)

    def _run(self, spec: Signature, feeds: Arrays) -> Arrays:
        if spec.axes:
            sizes = spec.sizes_of({name: x.shape[1:] for name, x in feeds.items()})
            if tiling := spec.tiling(sizes):
                batch = spec.max_batch(tiling.tile_sizes, TILES)
                return tiling.run(lambda tiles: self._run(spec, tiles), feeds, spec.shapes, batch)
            fixed = spec.at(sizes)
        else:
            fixed = spec
        names = [output.name for output in spec.outputs]
        arrays = self._sessions[spec.graph].run(names, feeds, self._options)
        outputs = dict(zip(names, arrays, strict=True))
        check_shapes(fixed, outputs, len(next(iter(feeds.values()))))
        return outputs

    def is_bounded(self, signature: str) -> bool:
        """True if the time of a run does not depend on its inputs: the graph has no loop."""
        return self.signature(signature).graph in self._bounded

    def stop(self) -> None:
        """Make the current run, and every later one, end with an error; thread-safe.

        onnxruntime checks between the nodes of a graph and of a loop.
        """
        self._options.terminate = True

    def stream(
        self, signature: str, inputs: Mapping[str, NDArray[Any]]
    ) -> Iterator[NDArray[np.int64]]:
        """Yield the tokens of an autoregressive signature position by position: (N,) int64 each.

        Ends with the last row. Raises ValueError as run() does, or for another signature.
        """
        spec = self.signature(signature)
        if not spec.step:
            raise ValueError(f"signature {signature!r} of {self.id} is not autoregressive; use run")
        return autoregressive.stream(spec, *self._step_graph(spec), self.checked(signature, inputs))

    def sample(
        self,
        signature: str = "sample",
        *,
        seed: Whole,
        n: Whole = 1,
        first_index: Whole = 0,
        label: Whole | Sequence[Whole] | None = None,
        batch: Whole = 64,
        settings: Mapping[str, float] | None = None,
        sizes: Sizes | None = None,
    ) -> Arrays:
        """Samples first_index .. first_index + n - 1 of `seed`, outputs by name, batch axis first.

        Sample i is the same alone and in any batch, up to the artifact's reproducibility level.
        `sizes` are those of free axes, by default the manifest's. Numbers may be numpy's. Raises
        ValueError as draw() does, and for n or batch < 1.
        """
        n, batch, first = whole(n, "n"), whole(batch, "batch"), whole(first_index, "first_index")
        for name, value in (("n", n), ("batch", batch)):
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        spec = self.signature(signature)
        sizes = self.sizes(signature, sizes)
        batch = spec.max_batch(sizes, batch)
        parts = []
        for start in range(0, n, batch):
            stop = min(start + batch, n)
            part: Any = label if label is None or is_one(label) else label[start:stop]  # type: ignore[index]
            indices = range(first + start, first + stop)
            drawn = self.draw(signature, seed, indices, part, settings, sizes=sizes)
            parts.append(self.run(signature, drawn))
        return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}

    def uint8(self, signature: str, outputs: Arrays) -> NDArray[np.uint8]:
        """The first image among `outputs` as (N, H, W, C) uint8. Raises ValueError if none."""
        for tensor in self.signature(signature).outputs:
            if tensor.kind == "image" and tensor.range is not None:
                return to_uint8(outputs[tensor.name], *tensor.range)
        raise ValueError(f"signature {signature!r} of {self.id} gives no image; take npy")

    def vocabulary(self, signature: str = "sample") -> Vocabulary:
        """Vocabulary of a signature's first text. Raises ValueError if it has none."""
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
        """Replay the reference samples, in a batch and one by one; measure this machine's level.

        Raises ArtifactError if an output is further than tolerance() from its reference.
        """
        for name, spec in self.manifest.signatures.items():
            measured = [self._replay(name, spec, sizes) for sizes in self.reference_sizes(name)]
            self.reproducibility[name] = max(measured, key=lambda r: r.max_abs)
        return self.reproducibility

    def _replay(self, name: str, spec: Signature, sizes: Sizes) -> Reproducibility:
        """Replay the references of one signature and size."""
        inputs, expected = self.references(name, sizes)
        count = len(next(iter(inputs.values())))
        at = f", {label_of(sizes)}" if sizes else ""
        try:
            together = self.run(name, inputs)
            alone = [
                self.run(name, {k: v[i : i + 1] for k, v in inputs.items()}) for i in range(count)
            ]
        except Exception as error:  # onnxruntime raises types without a common base
            raise ArtifactError(f"{self.id}: references of {name!r}{at}: {error}") from error
        single = {k: np.concatenate([part[k] for part in alone]) for k in together}
        measured = [compare(spec, expected, outputs) for outputs in (together, single)]
        worst = max(measured, key=lambda r: r.max_abs)
        allowed = tolerance(spec) + replay_loss(self.manifest, name)
        if not worst.max_abs <= allowed:
            raise ArtifactError(
                f"{self.id} does not reproduce its references on this machine: signature"
                f" {name!r}{at} is off by {worst.max_abs:.2g}, allowed is {allowed:.0e}"
            )
        return worst

    def reference_sizes(self, signature: str) -> list[dict[str, int]]:
        """Sizes of which there are references, first the default ones; [{}] for fixed shapes.

        Raises ArtifactError if there are none of the default sizes.
        """
        found = reference_sizes(signature, self.signature(signature), self._references)
        if reference_file(signature) not in found:
            raise ArtifactError(f"{self.id} has no references for signature {signature!r}")
        return [*found.values()]

    def references(self, signature: str, sizes: Sizes | None = None) -> tuple[Arrays, Arrays]:
        """The reference inputs and outputs that export stored for a signature.

        `sizes`: of free axes, by default those of the manifest. Raises ArtifactError if there are
        none or they do not fit the signature.
        """
        named = self.signature(signature)
        chosen, default = named.sizes(sizes or {}), named.sizes({})
        spec = named.at(chosen)
        file = reference_file(signature, None if chosen == default else chosen)
        if file not in self._references:
            raise ArtifactError(f"{self.id} has no references for signature {signature!r}")
        tensors = {f"in/{s.name}": s for s in spec.inputs}
        tensors |= {f"out/{s.name}": s for s in spec.outputs}
        try:
            arrays = read_references(self._references[file], tensors)
        except Exception as error:  # numpy, zipfile and zlib raise types without a common base
            raise ArtifactError(
                f"{self.id}: references of signature {signature!r} do not fit it: {error}"
            ) from error
        return (
            {s.name: arrays[f"in/{s.name}"] for s in spec.inputs},
            {s.name: arrays[f"out/{s.name}"] for s in spec.outputs},
        )


def _check_graph(name: str, signature: Signature, session: ort.InferenceSession) -> None:
    for what, specs, nodes in (
        ("input", signature.inputs, session.get_inputs()),
        ("output", signature.outputs, session.get_outputs()),
    ):
        promised = {s.name: (_ORT_TYPES[s.dtype], s.shape) for s in specs}
        tensors = {node.name: (node.type, tuple(node.shape[1:])) for node in nodes}
        if promised.keys() != tensors.keys() or not all(
            _fits(*promised[one], *tensors[one], bool(signature.axes) and what == "output")
            for one in promised
        ):
            raise ArtifactError(
                f"signature {name!r} promises {what}s {promised}, its graph has {tensors}"
            )
        if what == "input":
            _check_ties(name, signature, nodes)
        fixed = [node.name for node in nodes if isinstance(node.shape[0], int)]
        if fixed:
            raise ArtifactError(
                f"the batch axis of {what} {fixed[0]!r} of signature {name!r} is fixed; it must be"
                " free: export with a dynamic batch"
            )


def _fits(
    kind: str, shape: Shape, found: str, sizes: tuple[int | str | None, ...], lenient: bool
) -> bool:
    """True if a graph's tensor is one that a signature promises: of its type, and free where the
    signature has a free axis. `lenient`: it may be free elsewhere, too, as the outputs of graphs
    with free axes are whose sizes nobody inferred; they are checked after each run."""
    if (kind, len(shape)) != (found, len(sizes)):
        return False
    for wanted, size in zip(shape, sizes, strict=True):
        is_free = not isinstance(size, int)
        if not (is_free if isinstance(wanted, str) else size == wanted or (lenient and is_free)):
            return False
    return True


def _check_ties(name: str, signature: Signature, nodes: Sequence[Any]) -> None:
    """Raise ArtifactError where a graph gives one name to sizes that the signature tells apart."""
    shapes = {spec.name: spec.shape for spec in signature.inputs}
    said: dict[str, int | str] = {}
    for node in nodes:
        for wanted, size in zip(shapes[node.name], node.shape[1:], strict=True):
            if isinstance(size, str) and said.setdefault(size, wanted) != wanted:
                raise ArtifactError(
                    f"the graph of signature {name!r} ties {said[size]!r} to {wanted!r}: both are"
                    f" {size!r}; export it with axes of their own"
                )
