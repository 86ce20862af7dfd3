"""Networks of one modality: sizes that fit, images moved within bounds."""

import torch

from aigc.nn.encoders import AudioEncoder, TextEncoder, shifted
from aigc.nn.spectrogram import STFT


def test_shift_moves_images_within_bounds() -> None:
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    middle, corner = torch.full((1, 2), 0.5), torch.zeros(1, 2)
    assert torch.equal(shifted(image, middle, 1), image)
    moved = shifted(image, corner, 1)
    assert torch.equal(moved[:, :, 1:, 1:], image[:, :, :-1, :-1])
    assert (moved[:, :, 0] == -1).all()
    assert torch.equal(shifted(image, corner, 0), image)


def test_audio_encoder_reads_any_length() -> None:
    stft = STFT(samples=1024, window=64, hop=16, floor=1e-3)
    level = torch.rand(2, stft.bins, stft.frames)
    for widths in ((6,), (6, 8), (4, 6, 8)):
        assert AudioEncoder(stft, widths, 10, 5)(level).shape == (2, 5)


def test_text_encoder_reads_by_position() -> None:
    torch.manual_seed(0)
    read = TextEncoder(3, 4, 8, 5)(torch.tensor([[1, 2, 0], [2, 1, 0], [1, 2, 0]]))
    assert torch.equal(read[0], read[2])
    assert not torch.allclose(read[0], read[1])
