"""Metrics of generated samples, and the registry of what evaluates each modality.

The folder is the registry; users have files and modules of their own, see aigc/own_code. A file
named after a modality defines
`evaluate(artifact, train, test, n, seed) -> Evaluation` for `aigc evaluate`,
`side_by_side(artifact, test, seed) -> (H, W, C) uint8`, a picture of real samples above generated
ones, and `distance(real) -> Distance | None` for the quality measured during training.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from aigc import own_code
from aigc.artifact import Artifact, TensorSpec
from aigc.data import Dataset
from aigc.metrics.estimate import Estimate


@dataclass(frozen=True)
class Metric:
    """A value, and the value that real data score."""

    name: str
    value: float
    floor: float | None
    """The same metric of the real test split against the real training split."""
    better: str
    """Direction of improvement: `higher`, `lower`, or `real` for nearer to the floor; empty for a
    baseline that other metrics are compared with."""
    note: str = ""
    """Reason to doubt the value."""
    float32: float | None = None
    """The value in float32, of an artifact of reduced precision that is compared with it."""
    interval: tuple[float, float] | None = None
    """95 % interval of the value; None if it is unknown."""

    @property
    def quality_loss(self) -> float | None:
        """Share by which the value is worse than in float32, below 0 if it is better.

        The difference for the worse (of `real`, how much further from the floor it is), by the
        larger of float32's value and the floor. None of a baseline, and if there is no `float32`.
        """
        if self.float32 is None or not self.better:
            return None
        if self.better == "real" and self.floor is None:
            return None
        floor = self.floor or 0.0
        if self.better == "real":
            worse = abs(self.value - floor) - abs(self.float32 - floor)
        elif self.better == "lower":
            worse = self.value - self.float32
        else:
            worse = self.float32 - self.value
        scale = max(abs(self.float32), abs(floor))
        return worse / scale if scale else math.copysign(math.inf, worse) if worse else 0.0


class TooFewRows(ValueError):
    """There are fewer rows than a metric needs."""


class NotInstalled(ValueError):
    """A metric or a baseline needs a package or program that is not here; the message says which,
    and how to install it."""


@dataclass(frozen=True)
class Omitted:
    """A metric that was not computed."""

    name: str
    reason: str


@dataclass
class Evaluation:
    """Metrics in the order in which they were computed, and those omitted, with the reason.

    evaluation = Evaluation()
    evaluation.add("duration_s", lambda: mean(generated), lambda: mean(real), "real")
    """

    metrics: list[Metric] = field(default_factory=list)
    omitted: list[Omitted] = field(default_factory=list)

    def __iter__(self) -> Iterator[Metric]:
        return iter(self.metrics)

    def add(
        self,
        name: str,
        value: Callable[[], float | Estimate],
        floor: Callable[[], float | Estimate] | None,
        better: str,
        note: str = "",
    ) -> None:
        """Compute a metric, of an Estimate with its interval and note.

        TooFewRows or NotInstalled from `value` omits it, TooFewRows from `floor` only the floor.
        """
        try:
            measured = _finite(value())
        except (TooFewRows, NotInstalled) as error:
            self.omitted.append(Omitted(name, str(error)))
            return
        notes, real = [note, measured.note], None
        try:
            real = None if floor is None else _finite(floor()).value
        except TooFewRows as error:
            notes.append(f"no floor: {error}")
        interval = measured.interval if _has_interval(measured) else None
        said = "; ".join(filter(None, notes))
        self.metrics.append(Metric(name, measured.value, real, better, said, interval=interval))

    def extend(self, other: "Evaluation") -> None:
        """Append everything in another evaluation."""
        self.metrics += other.metrics
        self.omitted += other.omitted

    def beside(self, float32: "Evaluation") -> "Evaluation":
        """This evaluation, with the values that the same metrics have in float32."""
        values = {metric.name: metric.value for metric in float32}
        metrics = [replace(metric, float32=values.get(metric.name)) for metric in self]
        return Evaluation(metrics, self.omitted)


def _finite(value: float | Estimate) -> Estimate:
    found = value if isinstance(value, Estimate) else Estimate(value)
    if not math.isfinite(found.value):
        raise TooFewRows("it is not defined for these rows")
    return found


def _has_interval(found: Estimate) -> bool:
    return found.interval is not None and all(map(math.isfinite, found.interval))


def mean(values: NDArray[Any], what: str = "test rows") -> float:
    """The mean of all values (N, ...). Raises TooFewRows, naming `what`, if N is 0."""
    if not values.size:
        raise TooFewRows(f"there are no {what}")
    return float(values.mean())


MIN_ACCURACY = 0.8
"""Share of held-out real rows that a judge, the network behind a metric, must get right."""
MIN_JUDGE = 0.9
"""The same of a judge whose predictions are counted, as accuracies are; its features may be good
with less."""
MIN_TEST_ROWS = 30
"""Fewest held-out rows from which the accuracy of a judge is known."""


def reliability_note(correct: NDArray[np.bool_], min_accuracy: float = MIN_ACCURACY) -> str:
    """Reason to doubt the metrics of a judge, from its correctness on held-out real rows (N,);
    empty for a reliable one."""
    if len(correct) < MIN_TEST_ROWS:
        return (
            f"the judge is untested: {len(correct)} held-out real rows, {MIN_TEST_ROWS} are needed"
        )
    if (share := correct.mean()) < min_accuracy:
        return (
            f"weak judge: right of {share:.0%} of held-out real rows, {min_accuracy:.0%} is wanted"
        )
    return ""


def judge_note(correct: NDArray[np.bool_]) -> str:
    """Reason to doubt counts of a judge's predictions, from its correctness on held-out real rows
    (N,)."""
    weak = reliability_note(correct, MIN_JUDGE)
    return weak.replace("weak judge", "judge unfit for accuracies")


Evaluator = Callable[[Artifact, Dataset, Dataset, int, int], Evaluation]
Draw = Callable[[Artifact, Dataset, int], NDArray[np.uint8]]


def evaluator_of(modality: str, reference: str = "") -> Evaluator | None:
    """The `evaluate` of a modality, or of a reference to metrics in its place; None without one."""
    return cast(Evaluator | None, _of(modality, reference, "evaluate"))


def drawing_of(modality: str, reference: str = "") -> Draw | None:
    """The `side_by_side` of a modality, or of a reference in its place; None if it has none."""
    return cast(Draw | None, _of(modality, reference, "side_by_side"))


def draws(reference: str) -> bool:
    """True of metrics that have a `side_by_side`."""
    return hasattr(own_code.find(own_code.METRICS, reference).load(), "side_by_side")


def _of(modality: str, reference: str, function: str) -> object | None:
    """A function of a file of metrics; None if the modality has none. Raises ValueError if the
    reference leads to none."""
    if reference:
        place = own_code.find(own_code.METRICS, reference)
        found = getattr(place.load(), function, None)
        if found is None:
            wanted = own_code.METRICS.members[function]
            raise ValueError(f"{place.origin} defines no {function}; add {wanted}")
        return cast(object, found)
    if modality not in own_code.METRICS.built_in():
        return None
    return getattr(import_module(f"{__name__}.{modality}"), function, None)


def matching_rows(
    artifact: Artifact, test: Dataset, seed: int, columns: int = 10
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Held-out samples, and as many generated ones of the same classes: `columns` of both."""
    generated, labels = first_samples(artifact, columns, seed)
    if not len(test):
        return np.zeros_like(generated), generated
    if labels is None:
        return test.samples[:columns], generated
    rows = [np.flatnonzero(test.labels == label) for label in labels]
    # A repeated class shows another sample; one without test samples shows an empty one.
    turns = [int((labels[:i] == label).sum()) for i, label in enumerate(labels)]
    empty = np.zeros_like(test.samples[0])
    real = [
        test.samples[own[turn % len(own)]] if len(own) else empty
        for own, turn in zip(rows, turns, strict=True)
    ]
    return np.stack(real), generated


@dataclass(frozen=True)
class Distance:
    """Fréchet distance of samples to real ones: (N, *shape), or records as a data source has them.

    distance = Distance(lambda samples: frechet(known, features(samples)))
    distance(samples)    # lower is better
    """

    measure: Callable[[NDArray[Any]], float]
    note: str = ""
    """Reason to doubt it; empty if its features are reliable on held-out real rows."""

    def __call__(self, samples: NDArray[Any]) -> float:
        return float(self.measure(samples))


def distance_to(modality: str, reference: str = "") -> Callable[[Dataset], Distance | None] | None:
    """The `distance` of a modality, or of a reference in its place, which returns None for too few
    data; None if it has none."""
    found = _of(modality, reference, "distance")
    return cast("Callable[[Dataset], Distance | None] | None", found)


def first_samples(
    artifact: Artifact, n: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.int64] | None]:
    """The first n samples of a seed, classes in turn, and their labels; see samples_at()."""
    return samples_at(artifact, range(n), seed)


def samples_at(
    artifact: Artifact, indices: range, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.int64] | None]:
    """Samples of a seed, classes in turn, and their labels; None without classes.

    Images are float32 in [-1, 1], whatever the range of the artifact.
    """
    name = artifact.manifest.default_signature()
    spec = artifact.signature(name).outputs[0]
    num_classes = classes_in_turn(artifact)
    labels = np.array(indices) % num_classes if num_classes else None
    given = None if labels is None else labels.tolist()
    samples = artifact.sample(
        name, seed=seed, n=len(indices), first_index=indices.start, label=given
    )[spec.name]
    return to_unit_range(samples, spec), labels


def classes_in_turn(artifact: Artifact) -> int:
    """Number of classes of which samples_at() takes sample i of class i modulo them; 0 without."""
    label = artifact.signature(artifact.manifest.default_signature()).label
    if label is None:
        return 0
    assert label.range is not None
    return int(label.range[1]) + 1


def to_unit_range(samples: NDArray[np.float32], spec: TensorSpec) -> NDArray[np.float32]:
    """Images of the range of an output in [-1, 1]; all else stays as it is."""
    if spec.kind != "image" or spec.range in (None, (-1.0, 1.0)):
        return samples
    low, high = spec.range
    return ((samples - low) * (2 / (high - low)) - 1).astype(np.float32)
