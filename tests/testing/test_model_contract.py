"""The contract of models: ours keep it, every check finds what breaks it, and nothing else."""

import re
import subprocess
import sys
from pathlib import Path
from unittest import SkipTest

import pytest

from aigc import models
from aigc.testing import Check, ContractError, check_model, checks
from aigc.testing.model_contract import CONTRACT
from tests.own_files import GAN, write
from tests.small_models import narrow, smaller
from tests.testing.breaks import HONEST, OF_EXPORTS, OF_PRESETS, Break, replace_model
from tests.testing.broken_training import OF_LOSSES, OF_SUMS, OF_TRAINING

pytestmark = pytest.mark.process

PRESETS = [
    models.preset(f"{name}:{preset}")
    for name in models.names()
    for preset in models.load(name).PRESETS
]
BREAKS = [*OF_PRESETS, *OF_LOSSES, *OF_SUMS, *OF_EXPORTS, *OF_TRAINING]
NAMES = [function.__name__ for function in CONTRACT]
ELSEWHERE = {"parity", "trains_on_its_data"}
"""Checks that run below, or in tests/commands/test_export.py: one export is proof for several
presets, and takes seconds."""
OURS = [
    *(c for p in PRESETS for c in checks(narrow(smaller(p)), set(NAMES) - ELSEWHERE)),
    *(checks(narrow(p), {"trains_on_its_data"})[-1] for p in PRESETS),
]


@pytest.mark.parametrize("check", OURS)
def test_model_keeps_the_contract(check: Check) -> None:
    check()


@pytest.mark.parametrize("broken", BREAKS, ids=lambda b: b.what)
def test_a_broken_model_fails_exactly_one_check(
    broken: Break, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_model(monkeypatch, broken)
    found = outcomes(broken)
    failed = {name: said for name, (status, said) in found.items() if status == "failed"}
    assert list(failed) == [broken.check], failed
    assert re.search(broken.says, failed[broken.check]), failed[broken.check]


@pytest.mark.parametrize("honest", HONEST, ids=lambda b: b.what)
def test_an_unusual_model_is_not_refused(honest: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_model(monkeypatch, honest)
    assert {status for status, _ in outcomes(honest).values()} == {"ok"}


def outcomes(broken: Break) -> dict[str, tuple[str, str]]:
    """Status and sentences of every check, of parity only if it is to fail: it takes seconds."""
    wanted = set(NAMES) - ({"parity"} - {broken.check})
    run = [check.outcome() for check in checks(broken.preset, wanted)]
    return {o.check: (o.status, "\n".join(o.sentences)) for o in run}


def test_every_check_is_broken_by_something() -> None:
    assert {broken.check for broken in BREAKS} == set(NAMES)


def test_a_check_that_builds_on_a_failed_one_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_model(monkeypatch, next(b for b in BREAKS if b.what == "one name twice"))
    *_, check = checks("fc_gan:ring", ["finite_losses"])
    with pytest.raises(SkipTest, match="it builds on phases, which does not hold"):
        check()


def test_check_model_raises_with_all_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    for what in ("no sample", "a counter"):
        broken = next(b for b in BREAKS if b.what == what)
        edits = {**broken.edits, **next(b for b in BREAKS if b.what == "no sample").edits}
    replace_model(monkeypatch, Break("both", "", broken.file, edits))
    with pytest.raises(ContractError) as raised:
        check_model("fc_gan:ring", set(NAMES) - ELSEWHERE)
    assert "signatures: exports() has no 'sample'" in str(raised.value)
    assert "pure_losses: a loss changed the attribute calls" in str(raised.value)


def test_an_error_is_shown_with_the_users_own_line(tmp_path: Path) -> None:
    broken = GAN.replace("return self.layers(z)", "return self.layerz(z)")
    *_, check = checks(f"{write(tmp_path, broken)}:small", ["finite_losses"])
    with pytest.raises(
        ContractError, match=r"points\.py:\d+ in forward: `return self\.layerz\(z\)"
    ):
        check()


def test_a_users_file_is_checked_in_every_preset(tmp_path: Path) -> None:
    path = write(tmp_path, GAN + 'PRESETS["again"] = small\n')
    names = [check.__name__ for check in checks(str(path), ["builds"])]
    assert [name.partition(":")[2] for name in names] == ["small-builds", "again-builds"]


def test_unknown_check_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'gradients'"):
        checks("fc_gan:ring", ["gradient"])


def test_checks_need_no_pytest() -> None:
    program = "import sys, aigc.testing; assert 'pytest' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
