"""What a manifest alone is good for: what there is to ask, and the inputs of every sample."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc.artifact import latents
from aigc.artifact.manifest import Manifest, Reproducibility, Signature, TensorSpec

Arrays = dict[str, NDArray[Any]]


class Contract:
    """An artifact as far as its manifest goes. Holds no graph, so it runs nothing.

    contract = Contract(read_manifest("artifacts/digits"))
    contract.draw("sample", seed=7, indices=range(4))["latent"]         # (4, 100) float32
    """

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.reproducibility: dict[str, Reproducibility] = dict(manifest.reproducibility)
        """As measured at export, until it was measured on this machine."""

    @property
    def id(self) -> str:
        """`name@version`."""
        return self.manifest.id

    def signature(self, name: str) -> Signature:
        """The signature called `name`. Raises ValueError naming those there are."""
        try:
            return self.manifest.signatures[name]
        except KeyError:
            known = ", ".join(self.manifest.signatures)
            raise ValueError(f"{self.id} has no signature {name!r}, it has: {known}") from None

    def draw(
        self,
        signature: str,
        seed: int | Sequence[int],
        indices: Sequence[int],
        label: int | Sequence[int | None] | None = None,
        settings: Mapping[str, float | Sequence[float]] | None = None,
        given: Mapping[str, NDArray[Any]] | None = None,
    ) -> Arrays:
        """The inputs of samples `indices` of `seed`; labels are drawn where none is given.

        Seed, label and settings are those of all samples, or sequences with one for each. `given`
        is what a seed cannot give, by name, (len(indices), *shape) each; an optional input that is
        not among it is marked as missing. Raises ValueError for a label out of range, an unknown
        setting, something given that the signature does not take, or something that is lacking.
        """
        spec = self.signature(signature)
        given = given or {}
        _check_given(signature, spec, given, len(indices))
        filled = {**given, **absent(spec, given, len(indices))}
        settings = settings or {}
        known = [tensor.name for tensor in spec.inputs if tensor.kind == "setting"]
        if unknown := sorted(set(settings) - set(known)):
            raise ValueError(
                f"signature {signature!r} of {self.id} has no setting {unknown[0]!r}, it has:"
                f" {', '.join(known) or 'none'}"
            )
        inputs: Arrays = {}
        for tensor in spec.inputs:
            if tensor.kind == "latent":
                inputs[tensor.name] = latents.normal(seed, indices, tensor.shape)
            elif tensor.kind == "uniform":
                inputs[tensor.name] = latents.uniform(seed, indices, tensor.shape, tensor.name)
            elif tensor.kind == "setting":
                value = settings.get(tensor.name, tensor.default)
                inputs[tensor.name] = setting(tensor, value, len(indices))
            elif tensor.kind == "label":
                inputs[tensor.name] = _labels(tensor, seed, indices, label)
            elif tensor.name in filled:
                inputs[tensor.name] = filled[tensor.name]
            else:
                raise ValueError(
                    f"signature {signature!r} of {self.id} needs {tensor.kind} {tensor.name!r},"
                    " which a seed cannot give"
                )
        if label is not None and spec.label is None:
            raise ValueError(f"{self.id} takes no label: it was trained without classes")
        return inputs

    def draw_between(
        self,
        signature: str,
        seed: int,
        to_seed: int,
        frames: int,
        *,
        index: int = 0,
        label: int | None = None,
        to_label: int | None = None,
        settings: Mapping[str, float | Sequence[float]] | None = None,
    ) -> Arrays:
        """The inputs of `frames` steps from sample `index` of `seed` to that of `to_seed`.

        The first and the last are those samples themselves. Latents go along the sphere; a class
        cannot be mixed, so it changes half-way. Raises ValueError as draw() does.
        """
        start = self.draw(signature, seed, [index], label, settings)
        stop = self.draw(signature, to_seed, [index], to_label, settings)
        t = np.linspace(0, 1, frames)
        inputs: Arrays = {}
        for tensor in self.signature(signature).inputs:
            a, b = start[tensor.name][0], stop[tensor.name][0]
            latent = tensor.kind == "latent"
            near = (t < 0.5).reshape(-1, *(1 for _ in tensor.shape))
            inputs[tensor.name] = latents.slerp(a, b, t) if latent else np.where(near, a, b)
        return inputs


def absent(signature: Signature, given: Collection[str], n: int) -> Arrays:
    """Zeros for the optional inputs that are not among `given`, and what says so: 1 or 0 for each
    of n rows. Flags that are given stay what they are."""
    found: Arrays = {}
    for spec in signature.optional:
        if spec.name not in given:
            found[spec.name] = np.zeros((n, *spec.shape), spec.dtype)
        if spec.presence not in given:
            found[spec.presence] = np.full(n, spec.name in given, np.float32)
    return found


def setting(spec: TensorSpec, value: float | Sequence[float] | None, n: int) -> NDArray[Any]:
    """A setting of n samples, one for all or one for each: (n,). Raises ValueError out of range."""
    assert spec.range is not None
    array = np.asarray(value)
    if spec.dtype == "int64" and (array != np.trunc(array)).any():
        raise ValueError(f"{spec.name} must be whole, got {value}")
    if array.ndim > 1 or array.size not in (1, n):
        raise ValueError(f"{spec.name} must be one number or {n} of them, got {array.shape}")
    if not ((array >= spec.range[0]) & (array <= spec.range[1])).all():
        low, high = spec.range
        raise ValueError(f"{spec.name} must be in [{low:g}, {high:g}], got {value}")
    return np.broadcast_to(array, (n,)).astype(spec.dtype)


def _check_given(
    name: str, signature: Signature, given: Mapping[str, NDArray[Any]], n: int
) -> None:
    drawn = ("latent", "uniform", "setting", "label", "presence")
    takes = {spec.name: spec for spec in signature.inputs if spec.kind not in drawn}
    if unknown := sorted(set(given) - set(takes)):
        raise ValueError(
            f"signature {name!r} takes no {unknown[0]!r}, it takes: {', '.join(takes) or 'nothing'}"
        )
    optional = [spec.name for spec in signature.optional]
    if optional and not set(optional) & set(given):
        raise ValueError(f"signature {name!r} needs at least one of {', '.join(optional)}")
    for key, value in given.items():
        if value.shape != (n, *takes[key].shape):
            raise ValueError(f"{key} must have shape {(n, *takes[key].shape)}, got {value.shape}")


def _labels(
    spec: TensorSpec,
    seed: int | Sequence[int],
    indices: Sequence[int],
    label: int | Sequence[int | None] | None,
) -> NDArray[np.int64]:
    assert spec.range is not None
    num_classes = int(spec.range[1]) + 1
    if label is None:
        return latents.labels(seed, indices, num_classes)
    given = [label] * len(indices) if isinstance(label, int) else list(label)
    if len(given) != len(indices):
        raise ValueError(
            f"label must be one class or n of them: n is {len(indices)}, got {len(given)}"
        )
    for value in given:
        if value is not None and not spec.range[0] <= value < num_classes:
            raise ValueError(f"label must be in [0, {num_classes}), got {value}")
    if None in given:
        drawn = latents.labels(seed, indices, num_classes)
        given = [d if v is None else v for v, d in zip(given, drawn, strict=True)]
    return np.array(given, np.int64)
