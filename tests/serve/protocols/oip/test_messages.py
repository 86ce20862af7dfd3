"""Messages to a client that sends garbage: the field, and nothing of this program or machine."""

import base64
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from aigc.artifact import audio_files, image_files
from tests.serve.client import Client, limited, serving

OURS = re.compile(r"object at|0x[0-9a-f]{6,}|Traceback|site-packages|/tmp/|/root/|/home/|\.py\b")


@pytest.fixture(scope="module")
def client(
    store: Path, translator: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Client]:
    settings = limited(tmp_path_factory.mktemp("metrics"), max_batch=4, max_n=100)
    with serving(settings, f"{store}/tiny@1", translator) as client:
        yield client


def garbage(count: int) -> Iterator[bytes]:
    """Files of every kind that is read: cut off, altered where it matters, or made up."""
    pixels = np.random.default_rng(0).integers(0, 255, (9, 9, 3), np.uint8)
    wave = np.random.default_rng(0).integers(-99, 99, (99, 1), np.int16)
    whole = [image_files.png(pixels), image_files.webp(pixels), image_files.jpeg(pixels)]
    whole += [audio_files.wav(wave, 8000), audio_files.flac(wave, 8000)]
    drawn = random.Random(0)
    for number in range(count):
        data = bytearray(whole[number % len(whole)])
        if drawn.random() < 0.3:
            data = data[: drawn.randrange(len(data))]
        for _ in range(drawn.choice((1, 3, 20))):
            if data:
                data[drawn.randrange(min(len(data), drawn.choice((12, 60, 10**6))))] = (
                    drawn.randrange(256)
                )
        yield bytes(data)
    yield from (b"", b"\0", b"fLaC", b"RIFF\0\0\0\0WAVE", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")


def check(answer: httpx.Response) -> str:
    """The message of a refusal; "" where something was made of the garbage all the same."""
    assert answer.status_code in (200, 400), answer.text
    if answer.status_code == 200:
        return ""
    message = str(answer.json()["error"]["message"])
    assert not OURS.search(message), message
    return message


def test_files_that_cannot_be_read_are_told_of_by_their_input(client: Client) -> None:
    seen = set()
    for data in garbage(120):
        message = check(client.request("POST", "/v1/verify", content=data))
        assert message == "" or "the body must be one PNG, WebP, JPEG, WAV, AIFF or FLAC" in message
        seen.add(message)
        for name in ("image", "audio"):
            given = {name: base64.b64encode(data).decode()}
            body = {"model": "translator", "inputs": given}
            message = check(client.request("POST", "/v1/samples", json=body))
            assert message == "" or f"{name!r} cannot be read" in message, message
            form = {"model": (None, "translator"), name: ("a", data)}
            message = check(client.request("POST", "/v1/samples", files=form))
            assert message == "" or f"{name!r} cannot be read" in message, message
            seen.add(message)
    assert any("FLAC" in message for message in seen)
    assert any("PNG" in message for message in seen)


def test_bodies_that_are_no_requests_are_told_of_without_our_objects(client: Client) -> None:
    drawn = random.Random(1)
    whole = json.dumps({"model": "translator", "inputs": {"text": "badge"}, "n": 1}).encode()
    for _ in range(200):
        data = bytearray(whole)
        for _ in range(drawn.choice((1, 3))):
            data[drawn.randrange(len(data))] = drawn.randrange(256)
        for kind in ("application/json", "multipart/form-data; boundary=x", "multipart/form-data"):
            answer = client.request(
                "POST", "/v1/samples", content=bytes(data), headers={"content-type": kind}
            )
            assert answer.status_code in (200, 400, 404), answer.text
            assert not OURS.search(answer.text) or answer.status_code == 200, answer.text
