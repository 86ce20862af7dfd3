"""`aigc check-model` and `aigc check-data`: a line per check, and the exit status."""

from pathlib import Path

import pytest

from aigc.commands import check_data, check_model
from tests.own_files import GAN, write

pytestmark = pytest.mark.process


def test_a_users_model_keeps_the_contract(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check_model.command([str(write(tmp_path, GAN))]) == 0
    first, *lines, last = capsys.readouterr().out.splitlines()
    assert first.endswith(":small")
    assert {line.split()[0] for line in lines} == {"ok"}
    assert last == f"{len(lines)} checks hold"
    assert any("sample equal at batch sizes 1, 2, 3, 7, 64" in line for line in lines)


def test_a_fault_is_said_in_a_sentence_and_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = GAN.replace("return self.layers(x).squeeze(1)", "return self.layers(x.detach())[:, 0]")
    broken = broken.replace("x.detach()", "x * x.mean().item()")
    only = ["--only", "accelerator", "config_survives_json"]
    assert check_model.command([f"{write(tmp_path, broken)}:small", *only]) == 1
    *lines, last = capsys.readouterr().out.splitlines()
    (failed,) = (line for line in lines if line.lstrip().startswith("failed"))
    assert "the host reads a value of a batch (item) at points.py:" in failed
    assert last.endswith("checks hold, 1 failed: accelerator")
    assert not any("parity" in line for line in lines)


def test_flags_of_the_model_make_it_smaller(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["fc_gan:ring", "--only", "builds", "--model.generator-widths", "0"]
    assert check_model.command(argv) == 1
    assert "failed" in capsys.readouterr().out


@pytest.mark.parametrize(("argv", "status"), [(["--help"], 0), ([], 2)])
def test_usage_lists_the_checks(
    argv: list[str], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check_model.command(argv) == status
    said = capsys.readouterr()
    assert "gradients " in (said.out or said.err)


def test_unknown_check_and_model_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown check 'paritty'; did you mean 'parity'"):
        check_model.command(["fc_gan:ring", "--only", "paritty"])
    with pytest.raises(ValueError, match="did you mean 'dcgan'"):
        check_model.command(["dcgna"])


def test_data_is_checked_for_the_rows_of_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert check_data.command(["ring", "--for", "fc_gan:ring"]) == 0
    assert "7 checks hold; 1 skipped" in capsys.readouterr().out
    assert check_data.command(["ring", "--shape", "1", "28", "28"]) == 1
    said = capsys.readouterr().out
    assert "data 'ring' gives points of shape (2,), the model wants (1, 28, 28)" in said


def test_data_needs_a_source_and_a_shape(capsys: pytest.CaptureFixture[str]) -> None:
    for argv, says in ((["ring"], "--for MODEL"), (["a", "b", "c", "--shape", "2"], "give SOURCE")):
        with pytest.raises(SystemExit) as raised:
            check_data.command(argv)
        assert raised.value.code == 2
        assert says in " ".join(capsys.readouterr().err.replace("│", " ").split())
    with pytest.raises(ValueError, match="did you mean 'ring'"):
        check_data.command(["rign", "--shape", "2"])
