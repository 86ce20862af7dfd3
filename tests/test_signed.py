"""The command line signs what it exports, and takes only what is signed where that is asked."""

from pathlib import Path

import pytest

from aigc.artifact import Artifact, ArtifactError
from aigc.artifact.manifest import SIGNATURE
from aigc.artifact.signing import Trust
from aigc.commands import evaluate, export, sample, verify
from serve.hosting import deploy
from tests.artifact.bombs import BOMBS
from tests.artifact.hostile import model, write, zeros_graph
from tests.artifact.keys import write_keys
from tests.fixtures.make import config, write_run

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("session_cache")]


def test_signed_export_is_accepted_by_every_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    private, public = map(str, write_keys(tmp_path))
    _, other = map(str, write_keys(tmp_path, "other"))
    write_run(tmp_path / "run", config())
    run, store = str(tmp_path / "run"), str(tmp_path / "store")
    argv = [run, "--name", "1", "--out", store]
    with pytest.raises(ValueError, match="is no private key that signs"):
        export.command([*argv, "--sign", public])
    assert not Path(store).exists(), "nothing is published that was to be signed and is not"
    assert export.command([*argv, "--sign", private]) == 0
    artifact = f"{store}/1"
    out = ["--out", str(tmp_path / "out"), "-n", "2"]
    assert sample.command([artifact, *out, "--trust", public]) == 0
    assert verify.command([artifact, "--trust", public]) == 0
    assert "signed by a key in" in capsys.readouterr().err
    for command, more in ((sample.command, out), (verify.command, [])):
        with pytest.raises(ArtifactError, match="another key signed it, or it was altered"):
            command([artifact, *more, "--trust", other])
    monkeypatch.setenv("AIGC_TRUST", other)
    for command, more in ((sample.command, out), (verify.command, []), (evaluate.command, [])):
        with pytest.raises(ArtifactError, match="another key signed it"):
            command([artifact, *more])
    with pytest.raises(ArtifactError, match="another key signed it"):  # before the server is asked
        deploy.command([artifact, "--url", "http://127.0.0.1:1"])
    monkeypatch.setenv("AIGC_TRUST", public)
    version = Path(artifact) / "1"
    with pytest.raises(ValueError, match=r"1@1 is signed, and --write changes .* give --sign KEY"):
        evaluate.command([artifact, "-n", "64", "--write"])
    assert Artifact.open(version, trust=Trust.load(public)).manifest.metrics == {}
    assert evaluate.command([artifact, "-n", "64", "--write", "--sign", private]) == 0
    assert Artifact.open(version, trust=Trust.load(public)).manifest.metrics
    (version / SIGNATURE).unlink()
    with pytest.raises(ArtifactError, match=r"is not signed: it holds no model.sig"):
        verify.command([artifact])


def test_options_without_effect_are_refused() -> None:
    with pytest.raises(ValueError, match="--sign has no effect without --write"):
        evaluate.Options(artifact="x", sign="key")
    with pytest.raises(ValueError, match="--trust is for artifacts"):
        sample.Options(source="http://127.0.0.1:8000", trust="key")


def test_untrusted_bomb_is_verified_in_a_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "MEMORY_SHARE", 0.02)  # of some GiB
    with pytest.raises(ArtifactError, match="takes more than the"):
        verify.command([str(write(tmp_path / "bomb", BOMBS["folded"]))])
    assert verify.command([str(write(tmp_path / "honest", model(zeros_graph())))]) == 0
