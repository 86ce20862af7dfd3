"""Tiny artifacts in a store, and replicas in this process."""

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from aigc.artifact import Artifact, Store
from serve.settings import Limits, Settings
from tests.free_sizes import seal_tiled
from tests.serve.artifacts import (
    publish,
    publish_colours,
    publish_sounds,
    publish_translator,
    publish_words,
)
from tests.serve.browser import CHROMIUM
from tests.serve.listening import Gate, Listening, listening


def published(publish_it: Callable[..., str], name: str, **options: Any) -> Any:
    """A fixture: the URI of the artifact NAME@1, in a store of its own."""

    @pytest.fixture(scope="session", name=name)
    def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
        root = tmp_path_factory.mktemp(name)
        return publish_it(Store(root), root / "build", name, **options)

    return uri


words = published(publish_words, "words")
moods = published(publish_words, "moods", classes=("glad", "sad"))
colours = published(publish_colours, "colours")
voices = published(publish_sounds, "voices")
translator = published(publish_translator, "translator")


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
def tiled(tmp_path_factory: pytest.TempPathFactory) -> str:
    """up@1, upscalers by two whose signatures `enlarge`, of images, and `sample` have tiles."""
    return seal_tiled(tmp_path_factory.mktemp("tiled"))


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
