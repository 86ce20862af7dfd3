"""Files of the first version are opened by every later one."""

from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest

from aigc.artifact import Artifact
from aigc.training.run import Run
from tests.fixtures.make import ARTIFACT, RUN
from tests.training.small_runs import continue_run

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
    assert continue_run(run, longer) == "done"
    assert run.facts()["samples"] == 160
