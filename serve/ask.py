"""What is asked for: samples of a seed, found valid."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc.artifact import intake, latents
from aigc.artifact.codecs import Provenance
from serve.fair import Until
from serve.http import HTTPError
from serve.lane import Choices, SignatureLane


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A request that was found valid."""

    lane: SignatureLane
    n: int
    seed: int
    first_index: int
    label: int | list[int] | None
    given: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """What it is made from beside the seed, (n, ...) by input."""
    seeded: bool = True
    """Whether the seed has a say in it."""
    settings: Choices = field(default_factory=dict)
    """That were asked for, of all samples or of each; of the others the signature has a default."""
    prefix: NDArray[np.int64] | None = None
    """(n, L) how samples begin that go by steps."""
    until: Until | None = None
    """What ends them early."""
    composed: str = ""
    """The signature asked for, where two of the artifact's stand for it: the last is the lane's."""

    @property
    def signature(self) -> str:
        """The one that was asked for."""
        return self.composed or self.lane.name

    @property
    def samples(self) -> dict[str, Any]:
        """What a lane is told."""
        return {
            "seed": self.seed,
            "first_index": self.first_index,
            "n": self.n,
            "label": self.label,
            "settings": self.settings,
            "prefix": self.prefix,
            "until": self.until,
        }

    @property
    def indices(self) -> range:
        """Of its samples within the seed."""
        return range(self.first_index, self.first_index + self.n)

    def label_of(self, position: int) -> int | None:
        """The class asked for the sample at `position`."""
        return self.label[position] if isinstance(self.label, list) else self.label

    def labels(self) -> list[int] | None:
        """Every sample's class, asked for or drawn; None for models without classes."""
        if self.lane.num_classes is None:
            return None
        if self.label is None:
            drawn = latents.labels(self.seed, self.indices, self.lane.num_classes)
            return [int(label) for label in drawn]
        return [self.label] * self.n if isinstance(self.label, int) else self.label

    def parts(self, size: int) -> "Iterator[Ask]":
        """The same samples in asks for at most `size` each, in order."""
        for start in range(0, self.n, size):
            stop = min(start + size, self.n)
            label = self.label[start:stop] if isinstance(self.label, list) else self.label
            yield replace(
                self,
                n=stop - start,
                first_index=self.first_index + start,
                label=label,
                settings={
                    name: value if isinstance(value, int | float) else value[start:stop]
                    for name, value in self.settings.items()
                },
                prefix=self.prefix[start:stop] if self.prefix is not None else None,
            )

    def all_settings(self) -> dict[str, float]:
        """Every setting of the signature, asked for or not."""
        defaults: dict[str, Any] = {
            spec.name: spec.default
            for spec in self.lane.spec.inputs
            if spec.kind == "setting" and spec.default is not None
        }
        return {**defaults, **self.settings}

    def provenance(self, position: int) -> Provenance:
        """Of one sample."""
        artifact = self.lane.artifact
        return Provenance(
            artifact=artifact.id,
            digest=artifact.manifest.digest,
            signature=self.signature,
            seed=self.seed,
            index=self.first_index + position,
            label=self.label_of(position),
            given=intake.fingerprints(self.given, position),
            settings={
                name: value if isinstance(value, int | float) else value[position]
                for name, value in self.settings.items()
            },
        )

    def of_grid(self) -> Provenance:
        """Of all samples in one picture."""
        labels = [self.label] if isinstance(self.label, int) else self.label or ()
        return replace(self.provenance(0), label=None, n=self.n, labels=tuple(labels))


def check_label(label: int | Sequence[int] | None, n: int, lane: SignatureLane) -> None:
    """Raise HTTPError 400 unless `label` is one class, n classes or None where there are none."""
    if label is None:
        return
    if lane.num_classes is None:
        raise HTTPError(
            400,
            "label_not_supported",
            f"{lane.artifact.id} takes no label: it was trained without classes",
            param="label",
        )
    given = [label] if isinstance(label, int) else label
    if not isinstance(label, int) and len(label) != n:
        message = f"label must be one class or n of them: n is {n}, got {len(label)}"
        raise HTTPError(400, "label_count", message, param="label")
    for value in given:
        if not 0 <= value < lane.num_classes:
            message = f"label must be in [0, {lane.num_classes}), got {value}"
            raise HTTPError(400, "label_out_of_range", message, param="label")


def check_settings(settings: Mapping[str, Any], lane: SignatureLane) -> None:
    """Raise HTTPError 400 unless a lane has these settings, and they are in its ranges."""
    specs = {spec.name: spec for spec in lane.spec.inputs if spec.kind == "setting"}
    for name, value in settings.items():
        spec = specs.get(name)
        if spec is None or spec.range is None:
            known = ", ".join(specs) or "none"
            message = (
                f"signature {lane.name!r} of {lane.artifact.id} has no setting {name[:60]!r}, it"
                f" has: {known}"
            )
            raise HTTPError(400, "unknown_setting", message, param="settings")
        low, high = spec.range
        whole = spec.dtype == "int64"
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if (
            not number
            or not low <= value <= high  # nor what is not finite
            or (whole and value != int(value))
        ):
            kind = "a whole number" if whole else "a number"
            message = f"{name} must be {kind} in [{low:g}, {high:g}], got {str(value)[:60]}"
            raise HTTPError(400, "setting_out_of_range", message, param=name)
