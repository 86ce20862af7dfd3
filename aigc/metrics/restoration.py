"""Metrics of signatures that make images of images: real ones, degraded, and made whole again.

The degradations are those of aigc/metrics/degradation.py. The peak signal-to-noise ratio and the
structural similarity stand beside those of a classic method, which a network has to beat.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from aigc.artifact import Artifact
from aigc.artifact.axes import SizeError, solved
from aigc.artifact.image_files import grid, to_uint8
from aigc.artifact.manifest import Signature
from aigc.artifact.sampling_inputs import Arrays
from aigc.data import Dataset, scaled
from aigc.feature_network import FeatureNetwork
from aigc.metrics import Evaluation
from aigc.metrics.degradation import Images, Trial, from_range, resized, restores, trials
from aigc.metrics.likeness import Likeness
from aigc.metrics.similarity import psnr, ssim

BATCH = 16
COLUMNS = 10
"""Images of a picture."""


@dataclass(frozen=True)
class Restored:
    """Degraded images, and what a signature made of them, in [-1, 1]."""

    trial: Trial
    images: Images

    def psnr(self, real: Images) -> float:
        """PSNR in dB where the trial judges."""
        return psnr(self.images, real, self.trial.mask)


def restored(
    name: str, signature: Signature, real: Images, run: Callable[[Arrays], Arrays]
) -> Iterator[Restored]:
    """Results of a signature on its degradations of real images (N, C, H, W) in [-1, 1].

    One at a time, since each takes several times the memory of the images. `run` takes and returns
    its tensors by name. Raises ValueError if no size of the signature gives such images.
    """
    sized = sized_for(signature, real.shape[1:])
    made = sized.outputs[0]
    for trial in trials(name, sized, real):
        parts = [
            run({key: rows[i : i + BATCH] for key, rows in trial.given.items()})[made.name]
            for i in range(0, len(real), BATCH)
        ]
        images = from_range(np.concatenate(parts), made) if parts else real
        yield Restored(trial, images)


def evaluate(
    artifact: Artifact,
    name: str,
    test: Dataset,
    n: int,
    networks: Sequence[FeatureNetwork] = (),
) -> Evaluation:
    """PSNR in dB and SSIM of the first n test images, degraded, and of a classic method.

    By the features of `networks` also their distances (metrics/likeness.py). Masked images are
    compared in their holes by PSNR, and whole by the others.
    """
    real = scaled(test.samples[:n])
    evaluation, likeness = Evaluation(), Likeness(networks, real)
    for each in restored(name, artifact.signature(name), real, _runner(artifact, name)):
        trial = each.trial
        at = f"/{trial.name}" if trial.name else ""
        evaluation.add(f"psnr{at}", partial(each.psnr, real), None, "higher")
        evaluation.add(f"ssim{at}", partial(ssim, each.images, real), None, "higher")
        likeness.add(evaluation, each.images, after=at)
        if trial.baseline is None:
            continue
        classic, called = trial.baseline() if len(real) else real, f"{at}/{trial.baseline_name}"
        evaluation.add(f"psnr{called}", partial(psnr, classic, real, trial.mask), None, "")
        evaluation.add(f"ssim{called}", partial(ssim, classic, real), None, "")
        likeness.add(evaluation, classic, after=called, better="")
    return evaluation


def side_by_side(artifact: Artifact, name: str, test: Dataset) -> NDArray[np.uint8]:
    """Rows of degraded test images, what a signature and a classic method make of them, and the
    images themselves; four rows for each degradation, three without a classic method."""
    real = scaled(test.samples[:COLUMNS])
    return picture(restored(name, artifact.signature(name), real, _runner(artifact, name)), real)


def picture(
    results: Iterable[Restored], real: Images, *, classic: bool = True
) -> NDArray[np.uint8]:
    """A picture of results: (H, W, C) uint8. See side_by_side()."""
    rows = []
    for each in results:
        baseline = each.trial.baseline if classic else None
        middle = [each.images] if baseline is None else [each.images, baseline()]
        # Degraded images of another size are shown pixel by pixel, as far as they are smaller.
        rows += [_shown(each.trial.shown, real.shape[2:]), *middle, real]
    return grid(to_uint8(np.concatenate(rows), -1, 1), max(1, len(real)))


def _shown(images: Images, size: tuple[int, ...]) -> Images:
    factor, rest = divmod(size[0], images.shape[2])
    if factor >= 1 and not rest and images.shape[3] * factor == size[1]:
        return images.repeat(factor, 2).repeat(factor, 3)
    return resized(images, size)


def _runner(artifact: Artifact, name: str) -> Callable[[Arrays], Arrays]:
    """Function from the inputs that are given to the outputs; what is drawn is of seed 0."""

    def run(given: Arrays) -> Arrays:
        indices = range(len(next(iter(given.values()))))
        return artifact.run(name, artifact.draw(name, 0, indices, given=given))

    return run


def sized_for(signature: Signature, shape: tuple[int, ...]) -> Signature:
    """The signature at the sizes that give images of a shape; the default ones if none do."""
    try:
        sizes = solved(signature.reach, signature.outputs[0].shape, shape)
    except SizeError:
        sizes = {}
    return signature.at(signature.sizes(sizes))


def judged(signatures: Mapping[str, Signature]) -> str:
    """Name of the signature whose outputs are judged, in training and evaluation; "" for none.

    It is `sample`, else the only one that is drawn from a seed, else the first that makes an image
    of an image.
    """
    steps = {signature.step for signature in signatures.values()}
    offered = {name: one for name, one in signatures.items() if name not in steps}
    drawn = [name for name, one in offered.items() if one.drawable]
    if "sample" in drawn:
        return "sample"
    if len(drawn) == 1:
        return drawn[0]
    return next((name for name, one in offered.items() if restores(one)), "")
