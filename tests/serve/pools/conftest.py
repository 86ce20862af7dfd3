"""One server of two pools that takes signed artifacts alone, for all tests of this folder."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aigc.artifact.signing import sign
from tests.artifact.keys import write_keys
from tests.serve.servers import Server, server

CONFIG = """
trust: key.pub
pools:
  default:
    artifacts: [store/tiny@1]
    memory: 640MiB
    cpus: 0.5
    limits: {max_load_seconds: 8}
  large:
    artifacts: [store/other@1, store/words@1]
    replicas: 0..1
    memory: 640MiB
    cpus: 0.5
    scaling: {average_s: 0.1, downscale_delay_s: 2}
"""


@pytest.fixture(scope="package")
def folder(store: Path, words: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with signed artifacts; key.pem signs for the server, other.pem does not."""
    folder = tmp_path_factory.mktemp("pools")
    write_keys(folder)
    write_keys(folder, "other")
    for one in (store / "tiny" / "1", store / "other" / "1", Path(words)):
        copy = folder / "store" / one.parent.name / one.name
        shutil.copytree(one, copy)
        sign(copy, folder / "key.pem")
    return folder


@pytest.fixture(scope="package")
def signed(folder: Path) -> Callable[[str], str]:
    """Signs an artifact for the server."""

    def sign_it(artifact: str) -> str:
        sign(Path(artifact), folder / "key.pem")
        return artifact

    return sign_it


@pytest.fixture(scope="package")
def pools(folder: Path) -> Iterator[Server]:
    file = folder / "serve.yaml"
    file.write_text(CONFIG)
    with server(folder, "--config", str(file)) as running:
        running.wait_until_ready()
        yield running
