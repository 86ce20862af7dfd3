"""Metrics of recordings made again, by a vocoder of their mel spectra or a codec of their tokens.

    baselines = vocoder_baselines(Mel(rate_hz=8000))
    evaluation = evaluate(real, made, 8000, baselines)    # mel, mel/griffin_lim32, mr_stft, ...

Each stands beside that of classic methods, which a network has to beat. Intervals are those of a
bootstrap over recordings: they say nothing of another training run.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from aigc.config import require
from aigc.metrics import Evaluation, NotInstalled, Omitted, TooFewRows
from aigc.metrics import speech_quality as quality
from aigc.metrics.estimate import Estimate, bootstrap
from aigc.metrics.fine_structure import FineStructure, fine_structure
from aigc.metrics.frechet import moments_frechet, note_if_near
from aigc.metrics.griffin_lim import check_mel, from_mel
from aigc.metrics.mel_distance import Mel
from aigc.metrics.moments import Moments
from aigc.metrics.pitch import Pitch, PitchErrors, pitch
from aigc.metrics.recordings import Recordings, check, check_pairs
from aigc.metrics.speech_codecs import codec2, opus
from aigc.metrics.stft_distance import multi_resolution_distances

Baseline = Callable[[Recordings, int], Recordings]
"""Recordings and their rate in Hz -> recordings of the same lengths, not later."""
LOWEST_HZ = 8000
FRECHET_ROUNDS = 200


def vocoder_baselines(mel: Mel) -> dict[str, Baseline]:
    """Griffin-Lim from the mel spectrum by 32 and 100 iterations. Raises ValueError for windows and
    hops that it does not take."""
    check_mel(mel)

    def griffin_lim(iterations: int, waves: Recordings, rate_hz: int) -> Recordings:
        require(
            rate_hz == mel.rate_hz, f"the mel spectrum is of {mel.rate_hz} Hz, got {rate_hz} Hz"
        )
        return from_mel(waves, mel, iterations)

    return {f"griffin_lim{count}": partial(griffin_lim, count) for count in (32, 100)}


def codec_baselines() -> dict[str, Baseline]:
    """Codec2 at 3.2 and 1.6, Opus at 6 and 8 kbit/s."""
    return {
        **{f"codec2_{mode}": partial(codec2, mode=mode) for mode in ("3200", "1600")},
        **{f"opus_{rate}": partial(opus, bit_rate=rate) for rate in (6000, 8000)},
    }


def evaluate(
    real: Recordings,
    made: Recordings,
    rate_hz: int,
    baselines: Mapping[str, Baseline] | None = None,
    mel: Mel | None = None,
) -> Evaluation:
    """Metrics of pairs of recordings (samples,) in [-1, 1], the made ones not later than the real.

    `mel`, `mr_stft`, `pesq`, from 16 kHz on `pesq_wb`, `stoi`, `pitch/rmse_cents`, `pitch/gross`,
    `pitch/voicing`, `fine_structure`, `frechet/log_mel`; of each baseline the same, as
    NAME/BASELINE.
    `mel` is by default that of 40 bands, 40 ms and 10 ms. Baselines and metrics whose packages or
    programs are missing are left out, with the reason. Raises ValueError for pairs of different
    lengths and rates below 8 kHz.
    """
    check_pairs(real, made)
    require(rate_hz >= LOWEST_HZ, f"the rate must be {LOWEST_HZ} Hz or more, got {rate_hz}")
    reference = _Reference(real, rate_hz, mel or Mel(rate_hz=rate_hz))
    require(
        reference.mel.rate_hz == rate_hz,
        f"the mel spectrum is of {reference.mel.rate_hz} Hz, the recordings are of {rate_hz} Hz",
    )
    evaluation = Evaluation()
    _add(evaluation, "", _Compared(reference, made))
    for name, baseline in (baselines or {}).items():
        try:
            classic = baseline(real, rate_hz)
        except NotInstalled as error:
            evaluation.omitted.append(Omitted(f"*/{name}", str(error)))
            continue
        check_pairs(real, classic)
        _add(evaluation, f"/{name}", _Compared(reference, classic))
    return evaluation


@dataclass(frozen=True)
class _Reference:
    """The real recordings, and what all others are compared with."""

    waves: Recordings
    rate_hz: int
    mel: Mel

    def __post_init__(self) -> None:
        check(self.waves)

    @cached_property
    def mels(self) -> list[NDArray[np.float64]]:
        return [self.mel.log(wave) for wave in self.waves]

    @cached_property
    def pitches(self) -> list[Pitch]:
        return [pitch(wave, self.rate_hz) for wave in self.waves]

    @cached_property
    def structures(self) -> list[NDArray[np.float64]]:
        return [fine_structure(wave, self.rate_hz) for wave in self.waves]

    @cached_property
    def spectra(self) -> "_Spectra":
        return _Spectra(self.mels)

    def floor(self) -> float:
        """The Fréchet distance of every other recording to those between."""
        every = np.arange(len(self.waves))
        return self.spectra.distance(every[::2], self.spectra, every[1::2])


@dataclass(frozen=True)
class _Compared:
    """Metrics of made recordings, beside the real ones."""

    real: _Reference
    waves: Recordings

    @property
    def count(self) -> int:
        return len(self.waves)

    @cached_property
    def mels(self) -> list[NDArray[np.float64]]:
        return [self.real.mel.log(wave) for wave in self.waves]

    @cached_property
    def pitch_errors(self) -> list[PitchErrors]:
        made = (pitch(wave, self.real.rate_hz) for wave in self.waves)
        return [PitchErrors.of(a, b) for a, b in zip(self.real.pitches, made, strict=True)]

    def measures(self) -> Iterator[tuple[str, str, Callable[[], Estimate]]]:
        """Name, direction of improvement and value of each metric but the Fréchet distance."""
        rate_hz, real = self.real.rate_hz, self.real.waves
        yield "mel", "lower", self.mel
        stft = partial(multi_resolution_distances, real, self.waves, rate_hz)
        yield "mr_stft", "lower", lambda: _of_mean(np.array(stft()))
        pesq = partial(quality.pesq, real, self.waves, rate_hz)
        yield "pesq", "higher", lambda: _of_mean(pesq())
        if rate_hz >= quality.RATES_HZ["wide"]:
            yield "pesq_wb", "higher", lambda: _of_mean(pesq("wide"))
        yield "stoi", "higher", lambda: _of_mean(quality.stoi(real, self.waves, rate_hz))
        for name, of in (
            ("rmse_cents", lambda errors: errors.rmse_cents),
            ("gross", lambda errors: errors.gross_share),
            ("voicing", lambda errors: errors.voicing_share),
        ):
            yield f"pitch/{name}", "lower", partial(self.pitch, of)
        yield "fine_structure", "higher", self.fine_structure

    def mel(self) -> Estimate:
        """Mean over frames of all recordings."""
        sums = np.array(
            [
                (np.abs(a - b).mean(1).sum(), len(a))
                for a, b in zip(self.real.mels, self.mels, strict=True)
            ]
        ).reshape(-1, 2)
        return _bootstrap(lambda rows: float(np.divide(*sums[rows].sum(0))), self.count)

    def pitch(self, of: Callable[[PitchErrors], float]) -> Estimate:
        """A share or mean of the errors of all recordings."""
        errors = self.pitch_errors
        return _bootstrap(
            lambda rows: of(PitchErrors.total(errors[row] for row in rows)), self.count
        )

    def fine_structure(self) -> Estimate:
        """Correlation over voiced frames of all recordings."""
        rate_hz, real = self.real.rate_hz, self.real
        parts = [
            FineStructure.of(structure, fine_structure(wave, rate_hz), known.voiced)
            for structure, wave, known in zip(
                real.structures, self.waves, real.pitches, strict=True
            )
        ]
        return _bootstrap(
            lambda rows: FineStructure.total(parts[row] for row in rows).correlation, self.count
        )

    def frechet(self) -> Estimate:
        """Distance of the Gaussians of frames of the log-mel spectra."""
        own = _Spectra(self.mels)
        return _bootstrap(
            lambda rows: self.real.spectra.distance(rows, own, rows), self.count, FRECHET_ROUNDS
        )


class _Spectra:
    """Moments of the frames of recordings, for distances of many choices of recordings."""

    def __init__(self, mels: list[NDArray[np.float64]]) -> None:
        self._counts = np.array([len(mel) for mel in mels])
        self._sums = [mel.sum(0) for mel in mels]
        self._squares = [mel.T @ mel for mel in mels]

    def moments(self, rows: NDArray[np.int64]) -> Moments:
        """Moments of the frames of recordings, of which some come several times."""
        chosen, times = np.unique(rows, return_counts=True)
        if not len(chosen):
            raise TooFewRows("a Fréchet distance needs a recording on each side")
        count = int((self._counts[chosen] * times).sum())
        mean = sum(self._sums[i] * n for i, n in zip(chosen, times, strict=True)) / count
        square = sum(self._squares[i] * n for i, n in zip(chosen, times, strict=True))
        return Moments(count, mean, square - count * np.outer(mean, mean))

    def distance(
        self, rows: NDArray[np.int64], other: "_Spectra", others: NDArray[np.int64]
    ) -> float:
        return moments_frechet(self.moments(rows), other.moments(others))


def _add(evaluation: Evaluation, after: str, compared: _Compared) -> None:
    """Metrics, of a baseline if there is something after their names."""
    for name, better, value in compared.measures():
        evaluation.add(f"{name}{after}", value, None, "" if after else better)
    name, better = f"frechet/log_mel{after}", "" if after else "lower"
    evaluation.add(name, compared.frechet, compared.real.floor, better)
    note_if_near(evaluation, name, compared.count // 2)


def _bootstrap(
    statistic: Callable[[NDArray[np.int64]], float], count: int, rounds: int = 1000
) -> Estimate:
    if not count:
        raise TooFewRows("there are no recordings")
    return bootstrap(statistic, count, rounds)


def _of_mean(values: NDArray[np.float64]) -> Estimate:
    """Mean over recordings; those that are NaN are left out, as a note says."""
    judged = values[~np.isnan(values)]
    if not len(judged):
        raise TooFewRows(f"none of {len(values)} recordings can be judged: too short, or silent")
    found = _bootstrap(lambda rows: float(judged[rows].mean()), len(judged))
    if len(judged) == len(values):
        return found
    left_out = len(values) - len(judged)
    note = f"{left_out} of {len(values)} recordings cannot be judged: too short, or silent"
    return replace(found, note=note)
