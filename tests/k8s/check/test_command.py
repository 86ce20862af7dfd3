"""`aigc k8s check` as it is called."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from k8s.check.command import command
from k8s.check.rules import rules
from tests.k8s.check import mutation  # noqa: F401  Ray's schema, imported without its warnings

HERE = Path(__file__).parent
WHOLE = str(HERE / "whole.yaml")
JOB = str(HERE / "foreign" / "raycluster.yaml")


def test_nothing_found_is_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["check", WHOLE]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "18 objects, 0 findings\n"


def test_findings_are_1_and_lines_of_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    skip = ["--skip", "images", "placement", "ports", "selectors", "references/claims"]
    assert command(["check", JOB, *skip]) == 1
    said = capsys.readouterr()
    path = "spec.workerGroupSpecs[0].template.spec.containers[0].envFrom[0].secretRef.name"
    assert said.out == (
        f"RayCluster default/raycluster-complete: {path}: no Secret 'object-store' in namespace"
        " default; there is none. Add it, or declare it: --external Secret/object-store"
        " [references/secrets]\n"
    )
    assert said.err == "4 objects, 1 findings\n"
    assert command(["check", JOB, *skip, "--external", "Secret/object-store", "Pod/a=b"]) == 0


def test_json_is_a_finding_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["check", JOB, "--json"]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 7
    assert set(lines[0]) == {"kind", "namespace", "name", "path", "message", "rule"}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["check", "nowhere"], "aigc k8s check: nowhere: No such file or directory"),
        (["check", WHOLE, "--skip", "imges"], "aigc k8s check: unknown rule 'imges'"),
        (["check", WHOLE, "--external", "x"], "--external must be Kind/name, got 'x'"),
        (["chekc"], "aigc k8s: unknown action 'chekc'; there is: check"),
    ],
)
def test_what_cannot_be_checked_is_2(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(arguments) == 2
    said = capsys.readouterr()
    assert reason in said.err
    assert said.out == ""


@pytest.mark.parametrize("arguments", [[], ["--help"], ["check", "--help"]])
def test_help_lists_every_rule(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        command(arguments)
    assert end.value.code == 0
    shown = capsys.readouterr().out
    for name in rules():
        assert f"  {name} " in shown
    assert "aigc/external" in shown


@pytest.mark.process
def test_without_ray_what_needs_it_is_skipped_visibly(tmp_path: Path) -> None:
    line = "raise ModuleNotFoundError('no module ray', name='ray')\n"
    (tmp_path / "ray.py").write_text(line)
    code = "import sys; from k8s.check.command import command; sys.exit(command(sys.argv[1:]))"
    path = os.pathsep.join([str(tmp_path), str(HERE.parents[2])])
    done = subprocess.run(
        [sys.executable, "-c", code, "check", WHOLE],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    for rule in ("schema", "runtime_env"):
        said = f"aigc k8s check: rule serve_config/{rule} was skipped: ray is not installed; pip"
        assert said in done.stderr
    assert "serve_config/bounds" not in done.stderr
