"""Evaluation of recordings made again: each metric worsens, baselines stand beside, gaps show."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from aigc.commands.metrics_table import table
from aigc.metrics import NotInstalled, TooFewRows
from aigc.metrics.frechet import frechet
from aigc.metrics.mel_distance import Mel, mel_distance
from aigc.metrics.moments import Moments
from aigc.metrics.resynthesis import _Spectra, codec_baselines, evaluate, vocoder_baselines
from aigc.metrics.speech_quality import stoi
from aigc.metrics.stft_distance import multi_resolution_distances
from tests.metrics.recorded import RATE_HZ, low_passed, noise, shifted, voice

MEL = Mel(rate_hz=RATE_HZ)
NAMES = [
    *("mel", "mr_stft", "pesq", "stoi", "pitch/rmse_cents", "pitch/gross", "pitch/voicing"),
    *("fine_structure", "frechet/log_mel"),
]
LENGTHS_S = (1.0, 1.5, 1.2, 1.7, 1.1, 1.4)
REAL = [voice(f0, seconds) for f0, seconds in zip(range(110, 230, 20), LENGTHS_S, strict=True)]


def values(made: list[np.ndarray], **more: object) -> dict[str, float]:
    return {m.name: m.value for m in evaluate(REAL, made, RATE_HZ, **more)}


def noisy(level: float) -> list[np.ndarray]:
    return [
        wave + level * noise(len(wave) / RATE_HZ, seed=i)[: len(wave)]
        for i, wave in enumerate(REAL)
    ]


@pytest.fixture
def without_pesq(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less to wait for, and the same on machines that have it."""
    monkeypatch.setitem(sys.modules, "pesq", None)


def test_recordings_beside_themselves_are_perfect() -> None:
    found = values(REAL)
    assert [name for name in NAMES if name in found or name == "pesq"] == NAMES
    for name in ("mel", "mr_stft", "pitch/rmse_cents", "pitch/gross", "pitch/voicing"):
        assert found[name] == 0
    assert found["frechet/log_mel"] == pytest.approx(0, abs=1e-6)
    assert found["stoi"] == pytest.approx(1)
    assert found["fine_structure"] == pytest.approx(1)


@pytest.mark.usefixtures("without_pesq")
@pytest.mark.parametrize(
    ("damage", "unmoved"),
    [
        (noisy, ()),
        # A low pass leaves the pitch, and what STOI hears below 1 kHz.
        (lambda share: [low_passed(wave, 3500 - 50_000 * share) for wave in REAL], ("pitch",)),
        (lambda share: [shifted(wave, 1 + share) for wave in REAL], ()),
    ],
    ids=["noise", "low pass", "shift"],
)
def test_each_metric_worsens(
    damage: Callable[[float], list[np.ndarray]], unmoved: tuple[str, ...]
) -> None:
    a, b = evaluate(REAL, damage(0.003), RATE_HZ), evaluate(REAL, damage(0.05), RATE_HZ)
    assert len(a.metrics) == len(b.metrics) == len(NAMES) - 1
    for little, much in zip(a, b, strict=True):
        if little.name.startswith(unmoved or "-"):
            continue
        worse = much.value - little.value
        assert (worse if little.better == "lower" else -worse) > 0, little.name


@pytest.mark.usefixtures("without_pesq")
def test_values_are_those_of_the_functions() -> None:
    made = noisy(0.01)
    evaluation = evaluate(REAL, made, RATE_HZ)
    found = {m.name: m for m in evaluation}
    assert found["mel"].value == pytest.approx(mel_distance(REAL, made, MEL))
    assert found["mr_stft"].value == pytest.approx(
        np.mean(multi_resolution_distances(REAL, made, RATE_HZ))
    )
    assert found["stoi"].value == pytest.approx(stoi(REAL, made, RATE_HZ).mean())
    frames = [np.concatenate([MEL.log(wave) for wave in waves]) for waves in (REAL, made)]
    assert found["frechet/log_mel"].value == pytest.approx(frechet(*frames))
    halves = [np.concatenate([MEL.log(wave) for wave in REAL[i::2]]) for i in (0, 1)]
    assert found["frechet/log_mel"].floor == pytest.approx(frechet(*halves))
    for metric in evaluation:
        assert metric.interval is not None, metric.name
        assert metric.interval[0] <= metric.value <= metric.interval[1], metric.name
    assert found["mel"].interval[0] < found["mel"].interval[1]


def test_moments_of_chosen_recordings_are_those_of_their_frames() -> None:
    mels = [MEL.log(wave) for wave in REAL]
    rows = np.array([0, 3, 3, 5, 3])
    found = _Spectra(mels).moments(rows)
    wanted = Moments.of(np.concatenate([mels[row] for row in rows]))
    assert found.count == wanted.count
    assert found.mean == pytest.approx(wanted.mean)
    assert found.covariance == pytest.approx(wanted.covariance, abs=1e-9)


@pytest.mark.usefixtures("without_pesq")
def test_baselines_stand_beside_with_no_direction() -> None:
    evaluation = evaluate(REAL, noisy(0.01), RATE_HZ, {"nothing": lambda waves, rate_hz: waves})
    beside = [m for m in evaluation if m.name.endswith("/nothing")]
    assert [m.name.removesuffix("/nothing") for m in beside] == [n for n in NAMES if n != "pesq"]
    assert {m.better for m in beside} == {""}
    assert next(m.value for m in beside if m.name == "mel/nothing") == 0


@pytest.mark.process
@pytest.mark.usefixtures("without_pesq")
def test_example_of_the_documentation_runs(capsys: pytest.CaptureFixture[str]) -> None:
    section = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text().split("## Sounds")[1]
    code = section.split("```python\n")[1].split("```")[0]
    exec(code, {"real": REAL[:2], "made": noisy(0.01)[:2]})
    assert "stoi/griffin_lim100" in capsys.readouterr().out


@pytest.mark.usefixtures("without_pesq")
def test_griffin_lim_is_better_by_more_iterations() -> None:
    found = values(noisy(0.01), baselines=vocoder_baselines(MEL), mel=MEL)
    assert 0 < found["mel/griffin_lim100"] < found["mel/griffin_lim32"] < 0.4
    with pytest.raises(ValueError, match="the mel spectrum is of 8000 Hz, got 16000 Hz"):
        vocoder_baselines(MEL)["griffin_lim32"](REAL, 16_000)


def test_what_is_not_installed_is_left_out_and_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("pesq", "pystoi"):
        monkeypatch.setitem(sys.modules, name, None)
    evaluation = evaluate(REAL, REAL, RATE_HZ, codec_baselines())
    assert [m.name for m in evaluation] == [n for n in NAMES if n not in ("pesq", "stoi")]
    omitted = {one.name: one.reason for one in evaluation.omitted}
    assert omitted.keys() == {
        *("pesq", "stoi", "*/codec2_3200", "*/codec2_1600", "*/opus_6000", "*/opus_8000")
    }
    said = table("sounds", evaluation.metrics, evaluation.omitted)
    assert "aigc[sound]" in said
    assert "apt-get install opus-tools" in said
    assert "apt-get install codec2" in said


@pytest.mark.usefixtures("without_pesq")
def test_recordings_that_cannot_be_judged_are_noted() -> None:
    real = [*REAL, np.zeros(8000)]
    found = {m.name: m for m in evaluate(real, [*noisy(0.01), np.zeros(8000)], RATE_HZ)}
    assert found["stoi"].note.startswith("1 of 7 recordings cannot be judged")
    silent = evaluate([np.zeros(8000)] * 2, [np.zeros(8000)] * 2, RATE_HZ)
    reasons = {one.name: one.reason for one in silent.omitted}
    assert "none of 2 recordings can be judged" in reasons["stoi"]
    assert "not defined" in reasons["pitch/rmse_cents"]
    assert "not defined" in reasons["fine_structure"]
    assert {m.name: m.value for m in silent}["mel"] == 0


@pytest.mark.usefixtures("without_pesq")
def test_no_recordings_leave_all_out() -> None:
    evaluation = evaluate([], [], RATE_HZ, {"nothing": lambda waves, rate_hz: waves})
    assert evaluation.metrics == []
    assert len(evaluation.omitted) == 2 * len(NAMES)


@pytest.mark.usefixtures("without_pesq")
def test_a_single_recording_has_no_interval_and_no_floor() -> None:
    found = {m.name: m for m in evaluate(REAL[:1], noisy(0.01)[:1], RATE_HZ)}
    assert found["mel"].interval is None
    assert found["frechet/log_mel"].floor is None
    assert "no floor" in found["frechet/log_mel"].note


def test_wide_band_is_judged_from_16_khz_on() -> None:
    pytest.importorskip("pesq", reason="pesq is not here; pip install 'aigc[sound]'")
    wide = voice(180, rate_hz=16_000)
    found = {m.name: m.value for m in evaluate([wide] * 2, [wide] * 2, 16_000)}
    assert found["pesq"] == pytest.approx(4.549, abs=1e-3)
    assert found["pesq_wb"] == pytest.approx(4.644, abs=1e-3)


def test_rates_lengths_and_bad_baselines_are_refused() -> None:
    with pytest.raises(ValueError, match="must be 8000 Hz or more, got 4000"):
        evaluate(REAL, REAL, 4000)
    with pytest.raises(ValueError, match="is of 8000 Hz, the recordings are of 16000 Hz"):
        evaluate(REAL, REAL, 16_000, mel=MEL)
    with pytest.raises(ValueError, match="cut the made one, or take away its delay"):
        evaluate(REAL, [wave[1:] for wave in REAL], RATE_HZ)
    late = partial(map, lambda wave: wave[1:])
    with pytest.raises(ValueError, match="pairs must be equally long"):
        evaluate(REAL[:2], REAL[:2], RATE_HZ, {"late": lambda waves, _: list(late(waves))})
    assert issubclass(NotInstalled, ValueError)
    assert not issubclass(NotInstalled, TooFewRows)
