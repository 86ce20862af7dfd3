"""Opus and Codec2, the classic codecs that a learned one is compared with, by their programs.

    made = by_opus(wave, rate_hz, 6000)    # Debian: opus-tools
    made = by_codec2(wave, rate_hz, "1600")    # Debian: codec2
    made.wave, made.bits

Both are made for speech of anybody: a codec trained on one speaker knows more than they do.
"""

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from aigc.artifact.audio_files import pcm, read_sound, to_pcm16, wav
from aigc.artifact.resampling import polyphase
from aigc.config import require
from aigc.metrics import NotInstalled
from aigc.metrics.recordings import Recordings, Wave, check, check_rate

CODEC2_HZ = 8000
CODEC2_MODES = {
    "3200": (64, 160, 155),
    "2400": (48, 160, 155),
    "1600": (64, 320, 155),
    "1400": (56, 320, 155),
    "1300": (52, 320, 155),
    "1200": (48, 320, 155),
    "700C": (28, 320, 220),
}
"""Bits and samples of a frame, and samples by which the result of c2dec is late: measured, where
mel distance and STOI of speech are best."""
LONGEST_S = 120
"""Seconds that a program may take."""


@dataclass(frozen=True)
class Coded:
    """A recording that was encoded and decoded."""

    wave: NDArray[np.float32]
    """(samples,), as long as it was and not later."""
    bits: int
    """Size of the coded sound, without the headers of a file."""


def by_opus(wave: Wave, rate_hz: int, bit_rate: int) -> Coded:
    """A recording (samples,) by opusenc and opusdec at about `bit_rate` bits/s, 6,000 to 256,000.

    Frames of 20 ms, variable bit rate, complexity 10. The bits are those of the packets; Ogg's
    pages come on top. Raises NotInstalled, and ValueError for what the programs refuse.
    """
    check([wave])
    check_rate(rate_hz)
    require(6000 <= bit_rate <= 256_000, f"Opus has 6,000 to 256,000 bits/s, got {bit_rate}")
    for program in ("opusenc", "opusdec"):
        _require_program(program, "opus-tools")
    with TemporaryDirectory(prefix="aigc-opus-") as name:
        given, coded, made = (Path(name) / one for one in ("given.wav", "coded.opus", "made.wav"))
        given.write_bytes(wav(_pcm16(wave), rate_hz))
        rate = f"{bit_rate / 1000:g}"
        _run("opusenc", "--quiet", "--bitrate", rate, "--comp", "10", str(given), str(coded))
        _run("opusdec", "--quiet", "--float", "--rate", str(rate_hz), str(coded), str(made))
        found = read_sound(made.read_bytes(), overload="limited").samples[0]
        packets = ogg_packets(coded.read_bytes())
    # The first two hold the head and the comments.
    return Coded(_fitted(found, len(wave)), 8 * sum(packets[2:]))


def by_codec2(wave: Wave, rate_hz: int, mode: str) -> Coded:
    """A recording (samples,) by c2enc and c2dec, at 8 kHz, from and to which others are resampled.

    Modes are CODEC2_MODES, named after their bits/s. Raises NotInstalled, and ValueError for other
    modes.
    """
    check([wave])
    check_rate(rate_hz)
    require(mode in CODEC2_MODES, f"Codec2 has the modes {', '.join(CODEC2_MODES)}, got {mode!r}")
    for program in ("c2enc", "c2dec"):
        _require_program(program, "codec2")
    bits, size, delay = CODEC2_MODES[mode]
    sound = polyphase(np.asarray(wave, np.float32), rate_hz, CODEC2_HZ)
    # c2enc drops a last frame that is not full, and the delay has to come out as well.
    frames = -(-(len(sound) + delay) // size)
    sound = np.pad(sound, (0, frames * size - len(sound)))
    with TemporaryDirectory(prefix="aigc-codec2-") as name:
        given, coded, made = (Path(name) / one for one in ("given.raw", "coded.bin", "made.raw"))
        given.write_bytes(pcm(_pcm16(sound)))
        _run("c2enc", mode, str(given), str(coded))
        _run("c2dec", mode, str(coded), str(made))
        found = np.frombuffer(made.read_bytes(), "<i2").astype(np.float32) / np.float32(32767)
    found = polyphase(found[delay:], CODEC2_HZ, rate_hz)
    return Coded(_fitted(found, len(wave)), frames * bits)


def opus(waves: Recordings, rate_hz: int, bit_rate: int = 6000) -> list[NDArray[np.float32]]:
    """Recordings by by_opus(), each of its length."""
    return [by_opus(wave, rate_hz, bit_rate).wave for wave in waves]


def codec2(waves: Recordings, rate_hz: int, mode: str = "3200") -> list[NDArray[np.float32]]:
    """Recordings by by_codec2(), each of its length."""
    return [by_codec2(wave, rate_hz, mode).wave for wave in waves]


def bit_rate(waves: Recordings, rate_hz: int, code: Callable[[Wave, int], Coded]) -> float:
    """Bits per second of sound that a codec took for recordings, of which there is one at least."""
    check(waves)
    require(len(waves) > 0, "a bit rate needs a recording, got none")
    return sum(code(wave, rate_hz).bits for wave in waves) * rate_hz / sum(map(len, waves))


def ogg_packets(data: bytes) -> list[int]:
    """Sizes in bytes of the packets of an Ogg file of one stream (RFC 3533, section 6). Raises
    ValueError for a file that is cut off or none."""
    sizes, position, open_size = [], 0, 0
    while position < len(data):
        head = data[position : position + 27]
        require(head[:4] == b"OggS" and len(head) == 27, "not an Ogg file, or one that is cut off")
        count = data[position + 26]
        lacing = data[position + 27 : position + 27 + count]
        for value in lacing:
            open_size += value
            if value < 255:
                sizes.append(open_size)
                open_size = 0
        position += 27 + count + sum(lacing)
    require(position == len(data), "the Ogg file is cut off")
    return sizes


def _pcm16(wave: Wave) -> NDArray[np.int16]:
    return to_pcm16(np.asarray(wave, np.float32)[None])


def _fitted(wave: NDArray[np.float32], length: int) -> NDArray[np.float32]:
    """Cut, or zeros added at the end."""
    return np.pad(wave[:length], (0, max(0, length - len(wave)))).clip(-1, 1)


def _require_program(program: str, package: str) -> None:
    if shutil.which(program) is None:
        raise NotInstalled(
            f"the program {program} is not here; install Debian's {package}: apt-get install"
            f" {package}"
        )


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, timeout=LONGEST_S)
    except subprocess.TimeoutExpired:
        raise ValueError(f"{command[0]} took more than {LONGEST_S:g} s and was ended") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["it gives no reason"]
        raise ValueError(f"{command[0]} failed with status {done.returncode}: {said[-1]}")
