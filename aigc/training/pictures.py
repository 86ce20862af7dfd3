"""Pictures of a run while it trains: samples, or images that were made whole again."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from aigc.artifact import image_files
from aigc.artifact.sampling_inputs import is_picture
from aigc.metrics import restoration
from aigc.metrics.degradation import Images, restores
from aigc.model import GenerativeModel
from aigc.training.quality import generate, main_export, restored


def picture(
    model: GenerativeModel, real: Callable[[int], Images], columns: int = 10, per_row: int = 8
) -> NDArray[np.uint8] | None:
    """A picture of a model in eval mode, (H, W, C) uint8; None if it makes no pictures.

    Samples have a column per class. A model that makes images of images shows rows of degraded
    images, of what it makes of them, and of the images themselves; `real` gives the first n.
    """
    _, export = main_export(model)
    signature = export.signature
    if not is_picture(signature.outputs[0]):
        return None
    if not signature.drawable:
        if not restores(signature):
            return None
        images = real(columns)
        return restoration.picture([restored(model, images)], images, classic=False)
    n = columns * per_row
    made, *_ = generate(model, range(n), torch.arange(n) % columns).values()
    return image_files.grid(image_files.to_uint8(made, -1, 1), columns)
