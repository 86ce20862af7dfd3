"""eSpeak NG in a process of its own: `python -m aigc.data.espeak < requests > speech.npz`.

The library keeps state from one word to the next, so a word sounds alike only if the same words
were said before it: a fresh process for every list makes speech a function of the list. It is
GPL-3 as well, and so stays outside of the process that trains.
"""

import ctypes
import io
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RATE, PITCH, RANGE = 1, 3, 4
"""espeak_PARAMETER of speak_lib.h."""
SYNCHRONOUS, UTF8, CHARACTER = 2, 1, 1


@dataclass(frozen=True, kw_only=True)
class Word:
    """A word and the voice that speaks it."""

    text: str
    voice: str
    pitch: int
    """0 to 100."""
    words_per_minute: int
    pitch_range: int
    """0 is monotone, 100 lively."""


def speak(words: Sequence[Word]) -> tuple[list[NDArray[np.int16]], int]:
    """Each word's waveform (n,) and the sample rate in Hz.

    Raises ValueError if the library is missing, or has no such voice.
    """
    asked = json.dumps([asdict(word) for word in words]).encode()
    command = [sys.executable, "-m", __name__]
    done = subprocess.run(command, input=asked, capture_output=True, timeout=600)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise ValueError(f"speech cannot be synthesised: {said[-1]}")
    with np.load(io.BytesIO(done.stdout)) as stored:
        waves = np.split(stored["samples"], np.cumsum(stored["lengths"])[:-1])
        return waves, int(stored["rate_hz"])


class _Library:
    """speak_lib.h, as far as it is needed."""

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError:
            raise SystemExit(
                "eSpeak NG is not installed; pip install 'aigc[speech]' (GPL-3)"
            ) from None
        self._c = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path()
        self._variants = Path(data) / "voices" / "!v"
        self.rate_hz: int = self._c.espeak_Initialize(SYNCHRONOUS, 0, data.encode(), 0)
        if self.rate_hz <= 0:
            raise SystemExit("eSpeak NG does not start")
        kind = ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
        )
        self._parts: list[NDArray[np.int16]] = []
        self._callback = kind(self._take)  # the library keeps no reference to it
        self._c.espeak_SetSynthCallback(self._callback)

    def _take(self, wave: Any, count: int, events: Any) -> int:
        if wave and count > 0:
            self._parts.append(np.ctypeslib.as_array(wave, (count,)).copy())
        return 0

    def say(self, word: Word) -> NDArray[np.int16]:
        # A voice that it does not know changes nothing: the one before would speak on. A variant
        # (behind the +) that it does not know it passes over without a word.
        variant = word.voice.partition("+")[2]
        known = not variant or (self._variants / variant).is_file()
        if not known or self._c.espeak_SetVoiceByName(word.voice.encode()) != 0:
            raise SystemExit(f"eSpeak NG has no voice {word.voice!r}")
        settings = ((RATE, word.words_per_minute), (PITCH, word.pitch), (RANGE, word.pitch_range))
        for parameter, value in settings:
            if self._c.espeak_SetParameter(parameter, value, 0) != 0:
                raise SystemExit(f"eSpeak NG refuses {value} for parameter {parameter}")
        # Breath is noise, which espeak_Initialize seeds with the time.
        self._c.espeak_ng_SetRandSeed(ctypes.c_long(1))
        self._parts.clear()
        text = word.text.encode() + b"\0"
        if self._c.espeak_Synth(text, len(text), 0, CHARACTER, 0, UTF8, None, None) != 0:
            raise SystemExit(f"eSpeak NG does not say {word.text!r}")
        return np.concatenate(self._parts) if self._parts else np.zeros(0, np.int16)


def main() -> None:
    """Words as JSON from stdin, their waves as an archive of arrays to stdout."""
    library = _Library()
    waves = [library.say(Word(**word)) for word in json.load(sys.stdin)]
    buffer = io.BytesIO()
    lengths = np.array([len(wave) for wave in waves])
    np.savez(
        buffer, samples=np.concatenate(waves), lengths=lengths, rate_hz=np.array(library.rate_hz)
    )
    sys.stdout.buffer.write(buffer.getvalue())


if __name__ == "__main__":
    main()
