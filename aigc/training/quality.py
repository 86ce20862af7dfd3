"""Quality during training: how far samples are from real ones, by aigc/metrics/<modality>.py.

Models that make images of images are judged by these, see aigc/metrics/restoration.py.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aigc import data
from aigc.artifact import Signature, latents
from aigc.artifact.axes import free_positions
from aigc.artifact.sampling_inputs import Arrays, latent_purposes, setting
from aigc.config import TrainConfig
from aigc.data import Dataset, Source
from aigc.metrics import Distance, distance_to, restoration
from aigc.metrics.degradation import Images, restores
from aigc.metrics.image import judge_name
from aigc.metrics.restoration import Restored
from aigc.model import Export, GenerativeModel
from aigc.training.held_out import HeldOut

SAMPLES = 1000
"""Samples generated for one measurement."""
REAL_ROWS = 10_000
"""Largest number of real rows that samples are compared with."""

log = logging.getLogger(__name__)


class Quality:
    """Fréchet distance of samples to the training data, in features of their modality; of a model
    that makes images of images, the PSNR on held-out rows with a minus sign.

    quality = Quality(config, source)
    quality.measure(state.ema_model())     # lower is better; None if the modality has no distance
    """

    def __init__(self, config: TrainConfig, source: Source) -> None:
        self._config, self._source = config, source
        self._prepared = self._records = False
        self._distance: Distance | None = None
        self._measure: Callable[[GenerativeModel], float] | None = None
        self.held_out = HeldOut(config, source)

    def measure(self, model: GenerativeModel) -> float | None:
        """Quality of a model, which must be in eval mode.

        The first call trains the feature extractor of a distance, which may take minutes; if that
        raises, the next call tries again.
        """
        if not self._prepared:
            self._measure = self._prepare(model)
            self._prepared = True
        return None if self._measure is None else self._measure(model)

    @property
    def note(self) -> str:
        """Reason to doubt the quality; empty if there is none, or before the first of them."""
        return self._distance.note if self._distance else self.held_out.note

    def _prepare(self, model: GenerativeModel) -> Callable[[GenerativeModel], float] | None:
        signature = main_export(model)[1].signature
        restoring = not signature.drawable and restores(signature)
        if restoring and not self._config.quality:
            return self._negative_psnr
        if not restoring and not signature.drawable:
            log.warning("quality is not measured: no signature is drawn or makes images of images")
            return None
        self._distance = distance = self._prepare_distance()
        made = self._restored if restoring else self._generated
        return None if distance is None else lambda model: distance(made(model))

    def _negative_psnr(self, model: GenerativeModel) -> float:
        images = self.held_out.images()
        return -restored(model, images).psnr(images)

    def _restored(self, model: GenerativeModel) -> Images:
        return restored(model, self.held_out.images()).images

    def _prepare_distance(self) -> Distance | None:
        modality = self._config.model.modality
        distance = distance_to(modality, self._config.quality)
        prepared = distance and distance(self._real())
        if prepared is None:
            labels = "with" if self._source.classes else "without"
            log.warning("quality is not measured of data %s labels that are %s", labels, modality)
        return prepared

    def _real(self) -> Dataset:
        rows = np.sort(self._source.order(0, 0)[:REAL_ROWS])
        samples, labels = data.gather(self._source, rows.tolist(), "skip")
        self._records = samples.dtype.names is not None
        return Dataset(
            name=self._source.name,
            samples=samples,
            labels=labels,
            classes=self._source.classes,
            sample_rate_hz=getattr(self._source, "sample_rate_hz", 0),
        )

    def _generated(self, model: GenerativeModel, batch: int = 250) -> NDArray[Any]:
        """Samples in the source's form: records if it has several modalities."""
        starts = range(0, SAMPLES, batch)
        parts = [generate(model, range(i, i + batch), torch.arange(batch)) for i in starts]
        arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        if not self._records:
            return next(iter(arrays.values()))
        rows = np.zeros(
            SAMPLES, [(name, array.dtype, array.shape[1:]) for name, array in arrays.items()]
        )
        for name, array in arrays.items():
            rows[name] = array
        return rows


NEGATIVE_PSNR = "negative_psnr"


def quality_name(config: TrainConfig, model: GenerativeModel) -> str:
    """Name of the quality of a run's model, as metrics.jsonl has it after `quality/`."""
    signature = main_export(model)[1].signature
    usual = NEGATIVE_PSNR if not signature.drawable else "frechet"
    return config.quality.partition("@")[0] or usual


def metric_name(config: TrainConfig, model: GenerativeModel, classes: Sequence[str]) -> str:
    """Full name of that quality, as `--until` takes it: with the judge of images, by `classes`."""
    name = quality_name(config, model)
    judged = (config.quality or config.model.modality) == "image" and name != NEGATIVE_PSNR
    return f"frechet/{judge_name(classes)}" if judged else name


def main_export(model: GenerativeModel) -> tuple[str, Export]:
    """The signature that is judged and shown, else the first: its name, and the export."""
    exports = model.exports()
    name = restoration.judged({name: part.signature for name, part in exports.items()})
    name = name or next(iter(exports))
    return name, exports[name]


def restored(model: GenerativeModel, real: Images) -> Restored:
    """Images (N, C, H, W) in [-1, 1], degraded as for `aigc evaluate` by the first of the
    degradations, and restored by a model in eval mode."""
    name, part = main_export(model)
    signature = restoration.sized_for(part.signature, real.shape[1:])
    like = next(model.parameters())

    def run(given: Arrays) -> Arrays:
        rows = len(next(iter(given.values())))
        drawn = draw(signature, range(rows), np.zeros(rows, np.int64), given)
        return run_export(part, like, drawn)

    return next(restoration.restored(name, part.signature, real, run))


def generate(model: GenerativeModel, indices: range, turn: Tensor) -> dict[str, NDArray[Any]]:
    """Samples `indices` of seed 0 of a model in eval mode: (n, *shape) by output.

    Classes are `turn`, (n,) int64, modulo their number. Free axes have their default sizes.
    """
    _, part = main_export(model)
    drawn = draw(part.signature, indices, turn.cpu().numpy() % max(1, model.config.num_classes))
    return run_export(part, next(model.parameters()), drawn)


def run_export(part: Export, like: Tensor, arrays: Arrays) -> Arrays:
    """Outputs of an export's module by name, computed with the dtype and on the device of `like`;
    `arrays` are all of its inputs."""
    inputs = [
        torch.from_numpy(arrays[spec.name]).to(like)
        if spec.kind not in ("label", "setting")
        else torch.from_numpy(arrays[spec.name]).to(like.device)
        for spec in part.signature.inputs
    ]
    # exports() makes constants where torch makes tensors by default.
    module = part.module.to(like.device)
    with torch.no_grad():
        output = module(*inputs)
    outputs = output if isinstance(output, tuple) else (output,)
    return {
        spec.name: (value.float() if value.is_floating_point() else value).cpu().numpy()
        for spec, value in zip(part.signature.outputs, outputs, strict=True)
    }


def draw(
    named: Signature, indices: range, labels: NDArray[np.int64], given: Arrays | None = None
) -> Arrays:
    """Inputs of samples `indices` of seed 0 by name, with `labels` (n,) for classes, and those
    that are given."""
    inputs: Arrays = {}
    signature = named.at(named.sizes({}))
    purposes = latent_purposes(signature)
    for spec, free in zip(signature.inputs, named.inputs, strict=True):
        if given and spec.name in given:
            inputs[spec.name] = given[spec.name]
        elif spec.kind == "label":
            inputs[spec.name] = labels
        elif spec.kind == "setting":
            inputs[spec.name] = setting(spec, spec.default, len(indices))
        elif spec.kind == "uniform":
            places = free_positions(free.shape)
            inputs[spec.name] = latents.uniform(0, indices, spec.fixed_shape, spec.name, places)
        else:
            places = free_positions(free.shape)
            purpose = purposes[spec.name]
            inputs[spec.name] = latents.normal(0, indices, spec.fixed_shape, purpose, places)
    return inputs
