"""Biharmonic inpainting, the classic method that a learned one is compared with."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import diags_array, kronsum
from scipy.sparse.linalg import spsolve

Images = NDArray[np.float32]


def biharmonic(images: Images, masks: Images) -> Images:
    """Images (N, C, H, W) in [-1, 1] whose holes, masks (N, 1, H, W) > 0.5, are filled smoothly.

    In the holes the Laplacian of the Laplacian is 0, with the mirrored image beyond its edges
    (Damelin & Hoang 2018, On Surface Completion and Image Inpainting by Biharmonic Functions:
    Numerical Aspects, arXiv:1707.06567). Values are clipped to [-1, 1].
    """
    filled, twice = images.copy(), _laplacian(*images.shape[2:])
    twice = twice @ twice
    for image, mask in zip(filled, masks[:, 0] > 0.5, strict=True):
        if mask.any():
            holes, known = np.flatnonzero(mask), np.flatnonzero(~mask)
            rows = twice[holes]
            right = -rows[:, known] @ image.reshape(len(image), -1)[:, known].T.astype(np.float64)
            image[:, mask] = np.atleast_2d(spsolve(rows[:, holes].tocsc(), right).T)
    return filled.clip(-1, 1)


def _laplacian(height: int, width: int) -> Any:
    """Sparse matrix of the differences to the four neighbours, mirrored at the edges."""
    parts = []
    for size in (height, width):
        around = diags_array([np.ones(size - 1)] * 2, offsets=[-1, 1])
        parts.append(around - diags_array(around.sum(1)))
    return kronsum(parts[1], parts[0], format="csr")
