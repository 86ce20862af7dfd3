"""Rows of a run's data as inputs of its signatures, for the calibration of int8-conv."""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc import data
from aigc.artifact import Signature, TensorSpec
from aigc.artifact.axes import SizeError, solved
from aigc.artifact.sampling_inputs import Arrays
from aigc.config import TrainConfig
from aigc.metrics.degradation import resized, restores, to_range, trials
from aigc.metrics.restoration import sized_for
from aigc.sealing.calibration import NOISE, RealInputs

SEED = 0
"""Seed of the order in which rows are taken."""


def data_inputs(config: TrainConfig) -> RealInputs:
    """The first rows of a run's training data, in the order of SEED, as inputs that are data.

    Images are brought to the size of the input, and degraded where an image is made of one:
    reduced, or with holes beside a mask. Vectors are codes of the model, which are drawn, unless
    the data are vectors. Reading raises ValueError if there are no such data.
    """
    modality = config.model.modality

    @cache
    def rows(n: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
        try:
            source = data.load(config.data, config.model)
            return data.gather(source, source.order(SEED, 0)[:n].tolist(), "skip")
        except ValueError as error:
            raise ValueError(
                f"int8-conv takes ranges from the run's data, which cannot be read: {error}; put"
                " them there, or take --precision int8"
            ) from error

    def read(signature: Signature, n: int) -> Arrays:
        samples, labels = rows(n)
        if modality == "image" and restores(signature):
            real = data.scaled(samples)
            return trials("", sized_for(signature, real.shape[1:]), real)[0].given
        inputs: Arrays = {}
        for spec in signature.inputs:
            part = samples
            if samples.dtype.names:
                if spec.kind not in samples.dtype.names:
                    continue
                part = samples[spec.kind]
            elif spec.kind != modality:
                continue
            inputs[spec.name] = _fitted(signature, spec, part)
        if signature.label is not None and config.model.num_classes:
            inputs[signature.label.name] = labels
        return inputs

    noise = NOISE if modality == "vector" else (*NOISE, "vector")
    return RealInputs(origin="data", read=read, noise=noise)


def _fitted(signature: Signature, spec: TensorSpec, part: NDArray[Any]) -> NDArray[Any]:
    """Images at a size that an input has, in its range; all else as it is."""
    if spec.kind != "image":
        return np.ascontiguousarray(part)
    try:
        sizes = solved(signature.axes, spec.shape, part.shape[1:])
    except SizeError:
        sizes = {}
    sized = next(s for s in signature.at(signature.sizes(sizes)).inputs if s.name == spec.name)
    return to_range(resized(part, sized.fixed_shape[1:]), spec)
