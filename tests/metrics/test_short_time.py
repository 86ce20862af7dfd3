"""Short-time spectra against those of torch."""

import numpy as np
import pytest
import torch

from aigc.metrics.short_time import framed, spectra
from tests.metrics.recorded import noise


@pytest.mark.parametrize(("window", "hop", "samples"), [(256, 64, 4000), (320, 80, 4001)])
def test_spectra_equal_those_of_torch(window: int, hop: int, samples: int) -> None:
    wave = noise()[:samples]
    wanted = torch.stft(
        torch.from_numpy(wave),
        window,
        hop,
        window=torch.hann_window(window, dtype=torch.float64),
        return_complex=True,
    )
    found = spectra(wave, window, hop)
    assert found.shape == (1 + samples // hop, window // 2 + 1)
    assert np.allclose(found, wanted.numpy().T, atol=1e-10)


@pytest.mark.parametrize("samples", [1, 2, 100, 319])
def test_recordings_shorter_than_a_window_have_frames(samples: int) -> None:
    assert framed(np.ones(samples), 320, 80).shape == (1 + samples // 80, 320)
    assert np.array_equal(framed(np.ones(samples), 320, 80), np.ones((1 + samples // 80, 320)))


def test_windows_without_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="got 320 and 0"):
        framed(np.ones(10), 320, 0)
