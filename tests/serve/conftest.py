"""Tiny artifacts in a store, and replicas in this process."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from aigc.artifact import Artifact, Store
from serve.settings import Limits, Settings
from tests.serve.artifacts import (
    publish,
    publish_colours,
    publish_sounds,
    publish_translator,
    publish_words,
)
from tests.serve.browser import CHROMIUM
from tests.serve.listening import Gate, Listening, listening


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> str:
    """words@1, which gives texts."""
    root = tmp_path_factory.mktemp("words")
    return publish_words(Store(root), root / "build", "words")


@pytest.fixture(scope="session")
def moods(tmp_path_factory: pytest.TempPathFactory) -> str:
    """moods@1, which gives texts of two classes."""
    root = tmp_path_factory.mktemp("moods")
    return publish_words(Store(root), root / "build", "moods", classes=("glad", "sad"))


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with tiny@1, tiny@2 and other@1."""
    root = tmp_path_factory.mktemp("store")
    for i, name in enumerate(("tiny", "tiny", "other")):
        publish(Store(root), tmp_path_factory.mktemp("build") / name, name, i)
    return root


@pytest.fixture(scope="session")
def artifact(store: Path) -> Artifact:
    """tiny@1, opened beside the server."""
    return Artifact.open(f"{store}/tiny@1")


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> str:
    """colours@1, which gives images of another shape and knows no classes."""
    root = tmp_path_factory.mktemp("colours")
    return publish_colours(Store(root), root / "build", "colours")


@pytest.fixture(scope="session")
def voices(tmp_path_factory: pytest.TempPathFactory) -> str:
    """voices@1, which speaks."""
    root = tmp_path_factory.mktemp("voices")
    return publish_sounds(Store(root), root / "build", "voices")


@pytest.fixture(scope="session")
def translator(tmp_path_factory: pytest.TempPathFactory) -> str:
    """translator@1, which makes an image, a text and a sound of any of them."""
    root = tmp_path_factory.mktemp("translator")
    return publish_translator(Store(root), root / "build", "translator")


@pytest.fixture
def metrics_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "metrics"
    folder.mkdir()
    return folder


def images(answer: httpx.Response) -> list[bytes]:
    """The PNGs of a JSON answer, in order."""
    return [base64.b64decode(sample["image"]) for sample in answer.json()["samples"]]


@pytest.fixture
def served(store: Path, metrics_dir: Path) -> Iterator[Listening]:
    settings = Settings(metrics_dir=str(metrics_dir), limits=Limits(max_batch=4, max_n=100))
    with listening(settings, f"{store}/tiny@1") as served:
        yield served


@pytest.fixture
def gate(served: Listening) -> Iterator[Gate]:
    gate = Gate(served.probe)
    yield gate
    gate.open.set()


@pytest.fixture(scope="module")  # its event loop would be in the way of others'
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    switches = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--use-fake-device-for-media-stream",  # a microphone that beeps
        "--use-fake-ui-for-media-stream",
    ]
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=switches)
        yield browser
        browser.close()
