import numpy as np
import pytest
from numpy.typing import NDArray

from aigc.metrics import TooFewRows
from aigc.metrics.similarity import psnr, ssim


def pictures(noise: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A smooth image (1, 3, 24, 32), and the same with noise, clipped to [-1, 1]."""
    y, x = np.mgrid[0:24, 0:32]
    clear = np.stack([np.sin(x / 3 + c) * np.cos(y / (4 + c)) for c in range(3)])[None]
    drawn = np.random.default_rng(7).standard_normal(clear.shape)
    return clear.astype(np.float32), (clear + noise * drawn).clip(-1, 1).astype(np.float32)


@pytest.mark.parametrize(("off", "expected"), [(0.0, 100.0), (0.2, 20.0), (2.0, 0.0)])
def test_psnr_by_hand(off: float, expected: float) -> None:
    image: NDArray[np.float32] = np.full((2, 1, 3, 3), -1, np.float32)
    assert psnr(image + np.float32(off), image) == pytest.approx(expected, abs=1e-4)


# scikit-image 0.26.0: peak_signal_noise_ratio(a, b, data_range=2), and structural_similarity of
# (a + 1) / 2 and (b + 1) / 2 with data_range=1, channel_axis=0, gaussian_weights=True, sigma=1.5,
# use_sample_covariance=False
@pytest.mark.parametrize(
    ("noise", "decibels", "similarity"),
    [
        (0.05, 32.20993, 0.97981644),
        (0.2, 20.43093, 0.77049965),
        (0.6, 12.03268, 0.31645015),
    ],
)
def test_scikit_image_measures_the_same(noise: float, decibels: float, similarity: float) -> None:
    clear, noisy = pictures(noise)
    assert psnr(noisy, clear) == pytest.approx(decibels, abs=1e-4)
    assert ssim(noisy, clear) == pytest.approx(similarity, abs=1e-5)
    assert ssim(clear, noisy) == ssim(noisy, clear)


def test_equal_images_are_as_similar_as_can_be() -> None:
    clear, _ = pictures(0)
    assert ssim(clear, clear) == pytest.approx(1, abs=1e-12)
    assert ssim(clear * 3, clear) == ssim((clear * 3).clip(-1, 1), clear)


def test_ssim_is_a_mean_over_images() -> None:
    clear, noisy = pictures(0.2)
    pair = ssim(np.concatenate([clear, noisy]), np.concatenate([clear, clear]))
    assert pair == pytest.approx((1 + ssim(noisy, clear)) / 2)


def test_no_images_or_too_small_ones_have_no_similarity() -> None:
    small: NDArray[np.float32] = np.zeros((2, 3, 10, 20), np.float32)
    for measure in (psnr, ssim):
        with pytest.raises(TooFewRows, match="there are no test images"):
            measure(small[:0], small[:0])
    with pytest.raises(TooFewRows, match="11x11 or more, they are 10x20"):
        ssim(small, small)
