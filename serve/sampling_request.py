"""A validated request for samples of one model."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from numpy.typing import NDArray

from aigc.artifact import latents, user_inputs
from aigc.artifact.class_names import class_index
from aigc.artifact.image_files import Provenance
from aigc.artifact.sampling_inputs import InputError
from serve.errors import HTTPError
from serve.hosting.runner import SignatureRunner
from serve.sampling_params import SamplingParams


@dataclass(frozen=True, kw_only=True)
class SamplingRequest:
    """A validated request: the samples of its parameters, from one runner."""

    runner: SignatureRunner
    params: SamplingParams
    inputs: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Inputs the caller gave, (n, ...) by name, for the provenance."""
    seeded: bool = True
    """True if the samples depend on the seed."""
    composed: str = ""
    """Signature the caller named where two of the artifact's stand for it; the runner's is the
    second."""

    @property
    def n(self) -> int:
        """Number of samples."""
        return self.params.n

    @property
    def signature(self) -> str:
        """Signature the caller named."""
        return self.composed or self.runner.name

    def with_params(self, **changes: Any) -> "SamplingRequest":
        """A copy with parameters that were read after it was validated, such as a prefix."""
        return replace(self, params=replace(self.params, **changes))

    def rows(self, start: int, stop: int) -> "SamplingRequest":
        """The request for samples start .. stop - 1, without inputs."""
        return replace(self, params=self.params.rows(start, stop), inputs={})

    def with_inputs(self, inputs: Mapping[str, NDArray[Any]]) -> "SamplingRequest":
        """A copy with the inputs that were read after it was validated."""
        return replace(self, inputs=inputs)

    def split(self, size: int) -> "Iterator[SamplingRequest]":
        """The same samples in requests for at most `size` each, in order."""
        for params in self.params.split(size):
            yield replace(self, params=params)

    def label_of(self, position: int) -> int | None:
        """The label asked for of one sample; None if it is drawn."""
        label = self.params.label
        return label if isinstance(label, int | None) else label[position]

    def labels(self) -> list[int] | None:
        """Every sample's label, asked for or drawn; None for models without classes."""
        if self.runner.num_classes is None:
            return None
        params = self.params
        if params.label is None:
            drawn = latents.labels(params.seed, params.indices, self.runner.num_classes)
            return [int(label) for label in drawn]
        return [params.label] * params.n if isinstance(params.label, int) else [*params.label]

    def all_settings(self) -> dict[str, Any]:
        """Every setting of the signature, asked for or default."""
        defaults: dict[str, Any] = {
            spec.name: spec.default
            for spec in self.runner.spec.inputs
            if spec.kind == "setting" and spec.default is not None
        }
        return {**defaults, **self.params.settings}

    def provenance(self, position: int) -> Provenance:
        """Provenance of one sample."""
        artifact = self.runner.artifact
        return Provenance(
            artifact=artifact.id,
            digest=artifact.manifest.digest,
            signature=self.signature,
            seed=self.params.seed,
            index=self.params.first_index + position,
            label=self.label_of(position),
            given=user_inputs.fingerprints(self.inputs, position),
            settings={
                name: value if isinstance(value, int | float) else value[position]
                for name, value in self.params.settings.items()
            },
            sizes=dict(self.params.sizes),
        )

    def of_grid(self) -> Provenance:
        """Provenance of all samples in one picture."""
        label = self.params.label
        labels = [label] if isinstance(label, int) else label or ()
        return replace(self.provenance(0), label=None, n=self.n, labels=tuple(labels))


def check_sizes(
    sizes: Mapping[str, int],
    runner: SignatureRunner,
    given: Mapping[str, NDArray[Any]] | None = None,
) -> dict[str, int]:
    """Sizes of all free axes: from given inputs, else chosen, else the default.

    Raises HTTPError 400 for an unknown axis or a size that it does not allow.
    """
    try:
        return runner.artifact.sizes(runner.name, sizes, given)
    except InputError as error:
        raise HTTPError(400, error.code, f"{error}", param=error.param) from None


Label = int | str | Sequence[int | str] | None
"""Classes as clients give them: numbers or names, one or one for each sample."""


def resolve_label(label: Label, runner: SignatureRunner) -> int | list[int] | None:
    """Classes by number. Raises HTTPError 400 for a name that is unknown or may mean several."""
    if label is None or isinstance(label, int):
        return label
    if isinstance(label, str):
        return _class_of(label, runner)
    return [one if isinstance(one, int) else _class_of(one, runner) for one in label]


def _class_of(name: str, runner: SignatureRunner) -> int:
    if runner.num_classes is None:
        return 0  # check_label() refuses any
    classes = runner.spec.label.classes if runner.spec.label is not None else ()
    try:
        return class_index(name, classes, runner.num_classes)
    except ValueError as error:
        raise HTTPError(400, "unknown_label", str(error), param="label") from None


def check_label(label: int | Sequence[int] | None, n: int, runner: SignatureRunner) -> None:
    """Raise HTTPError 400 unless `label` is one class or n classes, or None."""
    if label is None:
        return
    if runner.num_classes is None:
        raise HTTPError(
            400,
            "label_not_supported",
            f"{runner.artifact.id} takes no label: it was trained without classes",
            param="label",
        )
    labels = [label] if isinstance(label, int) else label
    if not isinstance(label, int) and len(label) != n:
        message = f"label must be one class or n of them: n is {n}, got {len(label)}"
        raise HTTPError(400, "label_count", message, param="label")
    for value in labels:
        if not 0 <= value < runner.num_classes:
            message = f"label must be in [0, {runner.num_classes}), got {value}"
            raise HTTPError(400, "label_out_of_range", message, param="label")


def check_settings(settings: Mapping[str, Any], runner: SignatureRunner) -> None:
    """Raise HTTPError 400 for settings that a runner lacks, or values out of their ranges."""
    specs = {spec.name: spec for spec in runner.spec.inputs if spec.kind == "setting"}
    for name, values in settings.items():
        spec = specs.get(name)
        if spec is None or spec.range is None:
            known = ", ".join(specs) or "none"
            message = (
                f"signature {runner.name!r} of {runner.artifact.id} has no setting {name[:60]!r},"
                f" it has: {known}"
            )
            raise HTTPError(400, "unknown_setting", message, param="settings")
        low, high = spec.range
        whole = spec.dtype == "int64"
        for value in set(values) if isinstance(values, list) else (values,):
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if (
                not number
                or not low <= value <= high  # false for NaN, too
                or (whole and value != int(value))
            ):
                kind = "a whole number" if whole else "a number"
                message = f"{name} must be {kind} in [{low:g}, {high:g}], got {str(value)[:60]}"
                raise HTTPError(400, "setting_out_of_range", message, param=name)
