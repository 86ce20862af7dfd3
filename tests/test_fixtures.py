"""What the first version wrote, every later version opens."""

from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest

from aigc import data
from aigc.artifact import Artifact
from aigc.training.object_store import NullStore
from aigc.training.run import Run, train_run
from aigc.training.run_context import RunContext
from tests.fixtures.make import ARTIFACT, RUN

pytestmark = pytest.mark.process


def test_version_1_artifact_opens_and_reproduces_its_references() -> None:
    artifact = Artifact.open(ARTIFACT, verify=True)
    assert artifact.manifest.format_version == 1
    assert artifact.sample(seed=0, n=2, label=3)["image"].shape == (2, 1, 8, 8)


def test_version_1_run_resumes(tmp_path: Path) -> None:
    run = Run(copytree(RUN, tmp_path / "run"))
    config = run.config()
    longer = replace(config, samples=config.samples + 32)
    run.check_resume(longer)
    assert (
        train_run(
            RunContext(store=NullStore(run.folder)), longer, data.load(config.data, config.model)
        )
        == "done"
    )
    assert run.facts()["samples"] == 160
