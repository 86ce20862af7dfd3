"""The vocoder: what it is trained on, how far it sees, and its settings."""

from dataclasses import replace

import pytest
import torch

from aigc import models
from aigc.config import OptimizerConfig
from aigc.models.vocoder import Config, Model
from aigc.rng import BatchRNG
from tests.small_models import smaller

PRESET = smaller(models.preset("vocoder:speech8k"))
CONFIG = PRESET.model
assert isinstance(CONFIG, Config)


def rng(rows: int, at: int = 0) -> BatchRNG:
    return BatchRNG(0, at, rows, 0, rows, torch.zeros(1), 10_000)


def test_gain_changes_loudness_and_never_clips() -> None:
    model = Model(replace(CONFIG, gain=(0.5, 2.0)))
    audio = (torch.rand(64, 1, 1024) - 0.5) * 1.6
    real, _, made = model.prepare({"audio": audio}, rng(64), {"vocoder"})
    peaks = real.abs().amax((1, 2))
    assert made is None
    assert peaks.max() <= 1
    assert peaks.min() < 0.5 < 0.99 < peaks.max()


@pytest.mark.parametrize("causal", [False, True])
def test_it_sees_as_far_as_its_convolutions(causal: bool) -> None:
    """A causal one hears nothing of a frame before the window of the inverse transform."""
    torch.manual_seed(0)
    model = Model(replace(CONFIG, causal=causal)).eval()
    mel = torch.randn(1, CONFIG.bands, 60)
    other = mel.clone()
    other[0, :, 30] += 1
    changed = (model.network(mel) != model.network(other))[0, 0].nonzero()[:, 0]
    reach = 3 * (1 + CONFIG.blocks)  # kernels of 7 in the embedding and in each block
    framing = CONFIG.framing
    first = (30 if causal else 30 - reach) * framing.hop - framing.padding
    last = (30 + (2 * reach if causal else reach)) * framing.hop - framing.padding + framing.window
    # The ends of a Hann window are 0.
    assert first <= int(changed.min()) <= first + framing.hop
    assert last - framing.hop <= int(changed.max()) < last


def test_discriminators_wait_for_their_turn() -> None:
    config = replace(CONFIG, adversarial_weight="0:0 50%:1:step")
    model = Model(config)
    audio = {"audio": torch.rand(2, 1, 1024) - 0.5}
    early, late = rng(2), rng(2, 6_000)
    assert [phase.name for phase in model.phases()] == ["discriminator", "vocoder"]
    loss, _ = model.loss("discriminator", audio, early, model.prepare(audio, early, ()))
    assert loss.item() == 0
    loss, _ = model.loss("discriminator", audio, late, model.prepare(audio, late, ()))
    assert loss.item() > 0
    _, metrics = model.loss("vocoder", audio, late, model.prepare(audio, late, ()))
    assert {"mel", "stft", "adversarial", "features"} == metrics.keys()
    plain = Model(replace(CONFIG))
    torch.manual_seed(0)
    first = Model(config).network.state_dict()
    torch.manual_seed(0)
    second = Model(plain.config).network.state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"shape": (2, 1024)}, "a sound of one channel"),
        ({"window": 60}, "multiple of twice the hop"),
        ({"crop": 500}, "crop must be a multiple of 16, which the hop"),
        ({"crop": 0}, "crop must be a multiple of"),
        ({"hop": 15, "window": 60}, "hop must be even"),
        ({"largest": 20}, "largest must be above 22 frames: 2 blocks need 11 on either side"),
        ({"largest": 40, "causal": True}, "2 blocks that look back need 20 on either side"),
        ({"mel_windows": ()}, "mel_windows must be multiples of 8, at least one"),
        ({"adversarial_weight": 1.0, "periods": ()}, "must have an entry each"),
        ({"adversarial_weight": 1.0, "resolutions": (60,)}, "resolutions must be multiples of 8"),
        ({"adversarial_weight": 1.0, "periods": (600,)}, "periods must be below the crop, 512"),
        ({"gain": (0.5, float("inf"))}, "gain must be"),
        ({"crop": 2048}, "crop 2048 is longer than the sounds, 1024"),
        ({"mel_windows": (60,)}, "mel_windows must be multiples of 8"),
        ({"bands": 64}, "take fewer bands"),
        ({"gain": (0.0, 1.0)}, "gain must be"),
        ({"mel_weight": 0.0, "stft_weight": 0.0}, "must be > 0"),
        (
            {
                "adversarial_weight": "0:0 50%:1:step",
                "discriminator_optimizer": OptimizerConfig(weight_decay=0.1),
            },
            "weight_decay",
        ),
    ],
)
def test_configs_that_cannot_work_are_refused(changes: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replace(CONFIG, **changes)  # type: ignore[arg-type]


def test_the_rate_is_that_of_the_data() -> None:
    data = replace(PRESET.data, sample_rate_hz=16_000)
    with pytest.raises(ValueError, match=r"--model\.rate-hz 16000 or --data\.sample-rate-hz 8000"):
        replace(PRESET, data=data)
    assert replace(PRESET, data=data, model=replace(CONFIG, rate_hz=16_000))


@pytest.mark.parametrize("causal", [False, True])
def test_the_context_is_that_of_the_network(causal: bool) -> None:
    """Frames farther away change nothing, those at that distance do."""
    torch.manual_seed(0)
    config = replace(CONFIG, causal=causal)
    network = Model(config).eval().network
    mel = torch.randn(1, config.bands, 80)
    place = slice(40 * config.hop, 41 * config.hop)
    for distance, seen in ((config.context, True), (config.context + 1, False)):
        other = mel.clone()
        other[0, :, 40 - distance] += 1
        assert (network(mel) != network(other))[0, 0, place].any() == seen


def test_loud_levels_have_finite_gradients() -> None:
    model = Model(CONFIG)
    with torch.no_grad():
        model.network.head.bias[: CONFIG.framing.bins] = 200  # type: ignore[index]
    wave = model.network(torch.randn(1, CONFIG.bands, 10))
    wave.square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
