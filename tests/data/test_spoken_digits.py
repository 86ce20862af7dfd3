"""Synthesised digits: the same everywhere, all voices heard, none that speaks for another."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aigc.data.espeak import Word, speak
from aigc.data.sources import spoken_digits

pytestmark = pytest.mark.process

pytestmark = pytest.mark.process

pytest.importorskip("espeakng_loader", reason="espeakng-loader (extra `speech`) is not installed")

SEVEN = Word(text="seven", voice="en-us", pitch=50, words_per_minute=200, pitch_range=0)


def test_speak_is_equal_in_every_process() -> None:
    words = [SEVEN, replace(SEVEN, voice="en-us+f2"), replace(SEVEN, voice="en-us+m3")]
    first, rate_hz = speak(words)
    again, _ = speak(words)
    assert rate_hz == 22050
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert not np.array_equal(first[a], first[b])


@pytest.mark.parametrize("voice", ["en-us+nobody", "nobody", "en-gb+m1"])
def test_unknown_voice_is_refused(voice: str) -> None:
    with pytest.raises(ValueError, match=f"has no voice '{re.escape(voice)}'"):
        speak([SEVEN, replace(SEVEN, voice=voice)])


def test_pitch_and_speed_change_the_sound() -> None:
    plain, higher, faster = speak(
        [SEVEN, replace(SEVEN, pitch=80), replace(SEVEN, words_per_minute=300)]
    )[0]
    assert not np.array_equal(plain, higher)
    assert len(faster) < len(plain)


def test_words_cover_every_voice_without_repeating_settings() -> None:
    words = spoken_digits.words()
    assert len(words) == len(set(words)) == 3900
    heard = {(word.voice, word.text) for word in words}
    assert len(heard) == len(spoken_digits.VOICES) * len(spoken_digits.WORDS)


def test_missing_espeak_names_the_extra() -> None:
    script = (
        "import sys; sys.modules['espeakng_loader'] = None\n"
        "from aigc.data.espeak import main; main()"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, input=b"[]", capture_output=True, timeout=60)
    assert done.returncode == 1
    assert b"pip install 'aigc[speech]' (GPL-3)" in done.stderr


def test_espeak_is_not_loaded_into_the_caller() -> None:
    speak([SEVEN])
    assert "espeak" not in Path("/proc/self/maps").read_text()
