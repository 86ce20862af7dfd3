"""One thread for torch, one token for Ray, and what the tests of several packages share."""

import gc
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import settings

from tests.s3 import bucket, s3

__all__ = ["bucket", "s3"]

# Ray reads it once in a process: when it is imported, which collecting some modules does.
if "RAY_AUTH_MODE" not in os.environ:
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}

# No test asserts a time, hypothesis's deadline of 200 ms per example included.
settings.register_profile("aigc", deadline=None)
settings.load_profile("aigc")


@cache
def _starts_ray(file: Path) -> bool:
    return "mark.cluster" in file.read_text()


FIRST_TWO = ("gw0", "gw1")
"""Processes of xdist that take the tests with Ray. The others fill the time in which those wait."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where tests run in several processes, a file stays whole, and three groups come first.

    They are of the files with tests that start Ray: to serve, to train, and for Kubernetes. A Ray
    has folders and ports of its own, but many at a time would be slow, and three on two cores make
    Ray's own start time out: FIRST_TWO alone take them. xdist's groups (`loadgroup`) do not reach
    the scheduler with pytest 9.
    """
    from xdist.scheduler import LoadScopeScheduling

    groups = {"tests/serve/": "Ray Serve", "tests/k8s/": "Ray on Kubernetes"}

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            if not _starts_ray(config.rootpath / file):
                return file
            return next((groups[part] for part in groups if file.startswith(part)), "Ray Train")

        def _assign_work_unit(self, node: Any) -> None:
            if node.gateway.id not in FIRST_TWO:
                without = (scope for scope in self.workqueue if not scope.startswith("Ray "))
                first = next(without, next(iter(self.workqueue)))
                self.workqueue.move_to_end(first, last=False)
            super()._assign_work_unit(node)

    config.option.loadscopereorder = False  # by number of tests: these have few
    return ByFile(config, log)


def pytest_configure() -> None:
    """Tests beside those of FIRST_TWO make way for them."""
    if os.environ.get("PYTEST_XDIST_WORKER", FIRST_TWO[0]) not in FIRST_TWO:
        os.nice(5)


PROCESS_FIXTURES = {
    *("sealed", "written", "joined", "of_channels", "store"),
    *("words", "moods", "colours", "voices", "translator"),
    *("rendered", "browser"),
}
"""Fixtures that export or publish artifacts, or start programs: their tests are no unit tests."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start Ray come first; tests with PROCESS_FIXTURES get the marker `process`."""
    items.sort(key=lambda item: not _starts_ray(item.path))
    for item in items:
        if not PROCESS_FIXTURES.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker("process")


MNIST = Path(__file__).parents[2] / "shared" / "data" / "mnist10k"


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """The tests of serving load no torch, and are not made to."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _one_ssl_context() -> Iterator[None]:
    """One SSL context for all clients of httpx, which loads the certificates of a hundred
    authorities for each client otherwise, and `httpx.get()` makes a client per request."""
    from httpx._transports import default

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(default, "create_ssl_context", cache(default.create_ssl_context))
        yield


@pytest.fixture(scope="module", autouse=True)
def _frozen_heap() -> None:
    """As in Serve's replicas, a collection passes over what was there before.

    Replicas collect garbage when they switch; with torch, Ray and all test modules on the heap
    each collection would take half a second.
    """
    gc.collect()
    gc.freeze()


def _made_once(
    factory: pytest.TempPathFactory, name: str, make: Callable[[Path], str | Path]
) -> Path:
    """Path from `make`, called with a new folder by the first process of xdist that asks."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    made = root / f"{name}.path"
    with FileLock(root / f"{name}.lock"):
        if not made.exists():
            (root / name).mkdir(exist_ok=True)
            made.write_text(str(make(root / name)))
    return Path(made.read_text())


@pytest.fixture(scope="session")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny class-conditional artifact, exported a moment ago; not to be written to."""
    from aigc.artifact import Store
    from aigc.commands.export import export
    from tests.fixtures.make import config, write_run

    def make(folder: Path) -> str:
        return export(
            write_run(folder / "run", config()),
            name="tiny",
            store=Store(folder),
            licence="Apache-2.0",
        )

    return _made_once(tmp_path_factory, "sealed", make)


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed artifact of a small model of number words, hardly trained."""
    from dataclasses import replace

    from aigc import models
    from aigc.artifact import Store
    from aigc.commands.export import export
    from aigc.models import text_vae
    from tests.fixtures.make import config, write_run

    preset = models.preset("text_vae:numbers")
    model = text_vae.Config(latent=4, width=32, encoder_widths=(8, 8))
    small = replace(config(), preset=preset.preset, model=model, data=preset.data, samples=3200)

    def make(folder: Path) -> str:
        return export(write_run(folder / "run", small), name="words", store=Store(folder / "store"))

    return _made_once(tmp_path_factory, "written", make)


@pytest.fixture(scope="session")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed artifact of a small model of image, text and sound, hardly trained."""
    from aigc.artifact import Store
    from aigc.commands.export import export
    from tests.data.rows import run
    from tests.fixtures.make import write_run

    def make(folder: Path) -> str:
        made = write_run(folder / "run", run(folder / "data"))
        return export(made, name="three", store=Store(folder / "store"))

    return _made_once(tmp_path_factory, "joined", make)


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH with what the wheel of this project installs."""
    from tests.packages import unpacked_wheel

    return _made_once(tmp_path_factory, "wheel", unpacked_wheel)


@pytest.fixture
def session_cache(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache of judges and data that lasts for the session."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def of_channels(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Artifacts of images of so many channels, each sealed once; not to be written to."""
    from tests.channels import sealed_of

    return cache(lambda channels: sealed_of(channels, tmp_path_factory.mktemp("channels")))


@pytest.fixture(scope="session")
def free(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """free@1, an artifact whose signatures have free axes (tests/free_sizes.py)."""
    from aigc.artifact import Store
    from tests.free_sizes import publish_free

    root = tmp_path_factory.mktemp("free")
    return Path(publish_free(Store(root), root / "build", "free"))


@pytest.fixture(scope="session")
def mnist10k() -> Path:
    """10,000 real MNIST digits as IDX files, where this machine has them."""
    if not MNIST.is_dir():
        pytest.skip(f"{MNIST} is not on this machine")
    return MNIST
