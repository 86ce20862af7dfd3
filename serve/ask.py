"""What is asked for: samples of a seed, found valid."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from aigc.artifact import latents
from aigc.artifact.codecs import Provenance
from serve.hosting import SignatureLane
from serve.http import HTTPError


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A request that was found valid."""

    lane: SignatureLane
    n: int
    seed: int
    first_index: int
    label: int | list[int] | None
    given: tuple[str, ...] = ()
    """What it is made from beside the seed, as its provenance says."""

    @property
    def samples(self) -> dict[str, Any]:
        """What a lane is told."""
        return {
            "seed": self.seed,
            "first_index": self.first_index,
            "n": self.n,
            "label": self.label,
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
            first_index = self.first_index + start
            yield replace(self, n=stop - start, first_index=first_index, label=label)

    def provenance(self, position: int) -> Provenance:
        """Of one sample."""
        artifact = self.lane.artifact
        return Provenance(
            artifact=artifact.id,
            digest=artifact.manifest.digest,
            signature=self.lane.name,
            seed=self.seed,
            index=self.first_index + position,
            label=self.label_of(position),
            given=self.given,
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
