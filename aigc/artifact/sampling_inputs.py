"""Inputs of a signature: drawn from a seed, completed with defaults, checked against the manifest.

Checks that clients see raise InputError, whose code and parameter a server passes on.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc.artifact import latents
from aigc.artifact.axes import SizeError, Sizes, free_positions
from aigc.artifact.image_files import fits_png
from aigc.artifact.input_values import InputCode as InputCode
from aigc.artifact.input_values import InputError as InputError
from aigc.artifact.input_values import check_range
from aigc.artifact.input_values import setting as setting
from aigc.artifact.latents import Whole, is_one, whole
from aigc.artifact.manifest import Manifest, Reproducibility, Signature, TensorSpec

Arrays = dict[str, NDArray[Any]]
"""Tensors by name, batch axis first."""

PREFIX = "prefix"
"""(N, L) int64, an input of every autoregressive signature beside its own: tokens that each row
begins with instead of drawn ones, up to the first end."""

_CHECKED = ("label", "text", "token", "setting", "presence")
"""Kinds of inputs whose range is checked before a graph runs."""


def latent_purposes(signature: Signature) -> dict[str, str]:
    """Purpose of each latent's stream of numbers, by name: latents of equal shape must differ."""
    names = [spec.name for spec in signature.inputs if spec.kind == "latent"]
    return {name: f"latent/{name}" if i else "latent" for i, name in enumerate(names)}


class ArtifactSpec:
    """The part of an artifact that its manifest describes: it holds no graph and runs nothing.

    spec = ArtifactSpec(read_manifest("artifacts/digits"))
    spec.draw("sample", seed=7, indices=range(4))["latent"]         # (4, 100) float32
    """

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self._with_prefix = {name: _with_prefix(one) for name, one in manifest.signatures.items()}
        self.reproducibility: dict[str, Reproducibility] = dict(manifest.reproducibility)
        """By signature: as measured at export, and once replayed, on this machine."""

    @property
    def id(self) -> str:
        """`name@version`."""
        return self.manifest.id

    def signature(self, name: str) -> Signature:
        """The signature called `name`. Raises ValueError naming the known ones."""
        try:
            return self.manifest.signatures[name]
        except KeyError:
            known = ", ".join(self.manifest.signatures)
            raise ValueError(f"{self.id} has no signature {name!r}, it has: {known}") from None

    def draw(
        self,
        signature: str,
        seed: Whole | Sequence[Whole],
        indices: Sequence[Whole],
        label: Whole | Sequence[Whole | None] | None = None,
        settings: Mapping[str, float | Sequence[float]] | None = None,
        given: Mapping[str, NDArray[Any]] | None = None,
        sizes: Sizes | None = None,
    ) -> Arrays:
        """The inputs of samples `indices` of `seed`; labels that are not given are drawn.

        Seed, label and settings are one value for all samples, or sequences with one for each;
        numbers may be numpy's. `given` are inputs that are not drawn from a seed, by name,
        (len(indices), *shape) each; optional inputs beside them are marked as missing. `sizes` are
        those of free axes that no given input determines, by default those of the manifest. Raises
        InputError for a label or size out of range, an unknown setting, axis or input, or a missing
        one.
        """
        whole_spec = self.signature(signature)
        n = len(indices)
        given, settings = given or {}, settings or {}
        self._check_inputs_known(signature, given)
        spec = whole_spec.at(self.sizes(signature, sizes, given))
        self._check_given(signature, spec, given, n)
        self._check_settings_known(signature, settings)
        classes = self.classes(signature, label, n)
        filled = {**given, **optional_inputs(spec, given, n)}
        inputs: Arrays = {}
        purposes = latent_purposes(spec)
        for tensor, named in zip(spec.inputs, whole_spec.inputs, strict=True):
            shape, free = tensor.fixed_shape, free_positions(named.shape) if whole_spec.axes else ()
            if tensor.kind == "latent":
                purpose = purposes[tensor.name]
                inputs[tensor.name] = latents.normal(seed, indices, shape, purpose, free)
            elif tensor.kind == "uniform":
                inputs[tensor.name] = latents.uniform(seed, indices, shape, tensor.name, free)
            elif tensor.kind == "setting":
                value = settings.get(tensor.name, tensor.default)
                inputs[tensor.name] = setting(tensor, value, n)
            elif tensor.kind == "label":
                inputs[tensor.name] = _drawn_labels(tensor, seed, indices, classes)
            elif tensor.name in filled:
                inputs[tensor.name] = filled[tensor.name]
            else:
                raise InputError(
                    "signature_needs_input",
                    tensor.name,
                    f"signature {signature!r} of {self.id} needs {tensor.kind} {tensor.name!r},"
                    " which a seed cannot give",
                )
        return inputs

    def sizes(
        self,
        signature: str,
        chosen: Sizes | None = None,
        given: Mapping[str, NDArray[Any]] | None = None,
    ) -> dict[str, int]:
        """Size of every free axis: from given inputs, else as chosen, else the manifest's default.

        Empty for a signature of fixed shapes. Raises InputError for an unknown axis, a size that it
        does not allow, and where a given input has another size than the chosen one.
        """
        spec = self.signature(signature)
        if not (spec.axes or chosen):
            return {}
        chosen = chosen or {}
        for name in chosen:
            if name not in spec.axes:
                known = ", ".join(spec.axes) or "none, its sizes are fixed"
                message = f"signature {signature!r} of {self.id} has no axis {name[:60]!r}, it has:"
                raise InputError("unknown_axis", "sizes", f"{message} {known}")
        try:
            found = spec.sizes_of({k: v.shape[1:] for k, v in (given or {}).items()})
        except SizeError as error:
            raise InputError("malformed_input", error.tensor, f"{error}") from None
        try:
            sizes = spec.sizes({**chosen, **found})
        except SizeError as error:
            raise InputError("size_out_of_range", "sizes", f"{error}") from None
        for name, size in chosen.items():
            if sizes[name] != size:
                message = f"{name} is {sizes[name]} by what is given, so it cannot be {size}"
                raise InputError("no_effect", "sizes", message)
        return sizes

    def classes(
        self, signature: str, label: Whole | Sequence[Whole | None] | None, n: int
    ) -> list[int | None] | None:
        """The class of each of n samples, None where it is to be drawn; None without `label`.

        Raises InputError unless `label` is one class or n of them, each in the signature's range.
        """
        if label is None:
            return None
        spec = self.signature(signature).label
        if spec is None:
            message = f"{self.id} takes no label: it was trained without classes"
            raise InputError("label_not_supported", "label", message)
        each: Any = [label] * n if is_one(label) else label
        classes = [v if v is None or type(v) is int else whole(v, spec.name) for v in each]
        if len(classes) != n:
            message = f"label must be one class or n of them: n is {n}, got {len(classes)}"
            raise InputError("label_count", "label", message)
        check_range(spec, np.array([v for v in classes if v is not None]))
        return classes

    def check_settings(self, signature: str, settings: Mapping[str, Any], n: int = 1) -> None:
        """Raise InputError for settings that are unknown, no numbers, or out of range."""
        self._check_settings_known(signature, settings)
        specs = {spec.name: spec for spec in self.signature(signature).inputs}
        for name, value in settings.items():
            setting(specs[name], value, n)

    def check_inputs(
        self, signature: str, names: Collection[str], *, has_label: bool, has_seed: bool
    ) -> None:
        """Raise InputError unless inputs `names` are all that a signature needs beside a seed.

        No class is drawn beside given inputs, and a seed must have an effect.
        """
        spec = self.signature(signature)
        if has_seed and not spec.seeded:
            message = "seed has no effect: all that is to be run on is given by inputs"
            raise InputError("no_effect", "seed", message)
        self._check_inputs_known(signature, names)
        missing = [one.name for one in spec.given if not one.presence and one.name not in names]
        if spec.label is not None and not has_label:
            missing = [spec.label.name, *missing]
        if missing:
            raise InputError(
                "signature_needs_input",
                missing[0],
                f"signature {signature!r} of {self.id} needs {missing[0]} beside what is given:"
                " nothing is drawn for it",
            )

    def complete(self, signature: str, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """All inputs of a signature, in its order and dtypes; what is not given is filled in.

        Settings get their defaults, optional inputs zeros with the flags that say so; an
        autoregressive signature takes a `prefix`, and gets an empty one otherwise. So any two
        results for one signature have the same names, dtypes and shapes of rows. Raises ValueError
        naming the tensor that is missing, unknown, out of range or of the wrong shape.
        """
        if signature not in self._with_prefix:
            self.signature(signature)  # raises
        spec = self._with_prefix[signature]
        if spec.step and PREFIX not in inputs:
            rows = len(next(iter(inputs.values()), ()))
            inputs = {**inputs, PREFIX: np.zeros((rows, *spec.outputs[0].fixed_shape), np.int64)}
        if spec.axes:
            arrays = {name: np.asarray(array) for name, array in inputs.items()}
            spec = spec.at(self.sizes(signature, given=arrays))
        return _complete(spec, inputs)

    def inputs(self, signature: str) -> tuple[TensorSpec, ...]:
        """Inputs that complete() gives, the `prefix` of an autoregressive signature included."""
        return self._with_prefix[signature].inputs

    def draw_between(
        self,
        signature: str,
        seed: Whole,
        to_seed: Whole,
        frames: Whole,
        *,
        index: Whole = 0,
        label: Whole | None = None,
        to_label: Whole | None = None,
        settings: Mapping[str, float | Sequence[float]] | None = None,
        sizes: Sizes | None = None,
    ) -> Arrays:
        """The inputs of `frames` steps from sample `index` of `seed` to that of `to_seed`.

        The first and the last are those samples themselves. Latents follow the sphere; a class
        changes half-way, as classes cannot be mixed. Raises ValueError as draw() does.
        """
        start = self.draw(signature, seed, [index], label, settings, sizes=sizes)
        stop = self.draw(signature, to_seed, [index], to_label, settings, sizes=sizes)
        t = np.linspace(0, 1, whole(frames, "frames"))
        inputs: Arrays = {}
        for tensor in self.signature(signature).inputs:
            a, b = start[tensor.name][0], stop[tensor.name][0]
            latent = tensor.kind == "latent"
            near = (t < 0.5).reshape(-1, *(1 for _ in tensor.shape))
            inputs[tensor.name] = latents.slerp(a, b, t) if latent else np.where(near, a, b)
        return inputs

    def _check_given(
        self, signature: str, spec: Signature, given: Mapping[str, NDArray[Any]], n: int
    ) -> None:
        optional = [one.name for one in spec.optional]
        if optional and not set(optional) & set(given):
            message = f"signature {signature!r} needs at least one of {', '.join(optional)}"
            raise InputError("signature_needs_input", "inputs", message)
        for one in spec.given:
            if one.name in given and given[one.name].shape != (n, *one.shape):
                found = given[one.name].shape
                message = f"{one.name} must have shape {(n, *one.shape)}, got {found}"
                raise InputError("malformed_input", one.name, message)

    def _check_inputs_known(self, signature: str, names: Collection[str]) -> None:
        known = [spec.name for spec in self.signature(signature).given]
        if unknown := sorted(set(names) - set(known)):
            raise InputError(
                "unknown_input",
                "inputs",
                f"signature {signature!r} of {self.id} takes no input {unknown[0][:60]!r}, it"
                f" takes: {', '.join(known) or 'none'}",
            )

    def _check_settings_known(self, signature: str, names: Collection[str]) -> None:
        known = [spec.name for spec in self.signature(signature).inputs if spec.kind == "setting"]
        if unknown := sorted(set(names) - set(known)):
            raise InputError(
                "unknown_setting",
                "settings",
                f"signature {signature!r} of {self.id} has no setting {unknown[0][:60]!r}, it has:"
                f" {', '.join(known) or 'none'}",
            )


def is_picture(spec: TensorSpec) -> bool:
    """True of an image that fits into a PNG by its range and channels; others go as numbers."""
    return spec.kind == "image" and spec.range is not None and fits_png(channels(spec))


def channels(spec: TensorSpec) -> int:
    """Channels of an image or sound, which are never free."""
    assert isinstance(spec.shape[0], int)
    return spec.shape[0]


def optional_inputs(signature: Signature, given: Collection[str], n: int) -> Arrays:
    """Zeros for the optional inputs that are not among `given`, and all flags, 1 or 0 for n rows.

    Flags that are among `given` are left out.
    """
    filled: Arrays = {}
    for spec in signature.optional:
        if spec.name not in given:
            filled[spec.name] = np.zeros((n, *spec.fixed_shape), spec.dtype)
        if spec.presence not in given:
            filled[spec.presence] = np.full(n, spec.name in given, np.float32)
    return filled


def _drawn_labels(
    spec: TensorSpec,
    seed: Whole | Sequence[Whole],
    indices: Sequence[Whole],
    classes: list[int | None] | None,
) -> NDArray[np.int64]:
    if classes is not None and None not in classes:
        return np.array(classes, np.int64)
    assert spec.range is not None
    drawn = latents.labels(seed, indices, int(spec.range[1]) + 1)
    if classes is None:
        return drawn
    return np.array([d if v is None else v for v, d in zip(classes, drawn, strict=True)], np.int64)


def _with_prefix(signature: Signature) -> Signature:
    """An autoregressive signature with PREFIX among its inputs; others as they are."""
    if not signature.step:
        return signature
    prefix = replace(signature.outputs[0], name=PREFIX)
    return replace(signature, inputs=(*signature.inputs, prefix))


def _complete(signature: Signature, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
    expected = {spec.name for spec in signature.inputs}
    if optional := signature.optional:
        if not {spec.name for spec in optional} & set(inputs):
            names = ", ".join(spec.name for spec in optional)
            raise ValueError(f"inputs must have at least one of {names}, got {sorted(inputs)}")
        rows = len(next(iter(inputs.values())))
        inputs = {**inputs, **optional_inputs(signature, inputs.keys(), rows)}
    left_out = {s for s in signature.inputs if s.default is not None and s.name not in inputs}
    if set(inputs) != expected - {spec.name for spec in left_out}:
        raise ValueError(f"inputs must be {sorted(expected)}, got {sorted(inputs)}")
    if left_out:
        n = len(next(iter(inputs.values()), ()))
        inputs = {**inputs, **{s.name: setting(s, s.default, n) for s in left_out}}
    complete: Arrays = {}
    sizes = set()
    for spec in signature.inputs:
        array = np.asarray(inputs[spec.name])
        if array.shape[1:] != spec.shape or array.ndim != 1 + len(spec.shape) or not len(array):
            raise ValueError(
                f"{spec.name} must have shape (N, {', '.join(map(str, spec.shape))}) with N >= 1,"
                f" got {array.shape}"
            )
        if spec.range is not None and (spec.kind in _CHECKED or spec.is_codes):
            check_range(spec, array)
        if spec.dtype == "int64" and array.dtype.kind == "f" and (array % 1 != 0).any():
            value = array[array % 1 != 0].flat[0]
            raise ValueError(f"{spec.name} must be whole numbers, got {value:g}")
        complete[spec.name] = np.asarray(array, spec.dtype)
        sizes.add(len(array))
    if len(sizes) != 1:
        raise ValueError(f"inputs must share one batch size, got {sorted(sizes)}")
    return complete
