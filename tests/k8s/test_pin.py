"""`python -m k8s.pin`: what registries say becomes the `images:` of an overlay."""

from pathlib import Path

import pytest
import yaml

from k8s.pin import CLIENTS, digest, main, tagged
from tests.k8s.programs import program
from tests.k8s.rendered import Rendered, containers, kustomize, pods

SHA = "sha256:" + "0123456789abcdef" * 4


@pytest.fixture
def manifests(rendered: Rendered, tmp_path: Path) -> str:
    file = tmp_path / "all.yaml"
    file.write_text(rendered.text("training-job"))
    return str(file)


def test_pin_asks_for_every_tagged_image(manifests: str) -> None:
    names = ["aigc-serve:0.1.0-ray2.60.0", "aigc-train:0.1.0-ray2.60.0", "redis:7.4.6"]
    assert tagged([manifests]) == names


@pytest.mark.process
@pytest.mark.parametrize("client", ["crane", "skopeo", "docker"])
def test_pin_output_replaces_tags_by_digests(
    client: str,
    manifests: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    program(tmp_path / "bin", client, f'echo "$@" >> {tmp_path}/asked; echo {SHA}')
    with monkeypatch.context() as only:
        only.setenv("PATH", f"{tmp_path / 'bin'}:/bin")
        only.setattr("k8s.pin.CLIENTS", {client: CLIENTS[client]})
        assert main([manifests]) == 0
    asked = (tmp_path / "asked").read_text().split()
    assert ("docker://redis:7.4.6" if client == "skopeo" else "redis:7.4.6") in asked
    (tmp_path / "overlay").mkdir()
    (tmp_path / "overlay" / "all.yaml").write_text(Path(manifests).read_text())
    overlay = {"resources": ["all.yaml"], **yaml.safe_load(capsys.readouterr().out)}
    (tmp_path / "overlay" / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    # The names are set by kustomize in core kinds; those of Ray are known to the base.
    (redis,) = (
        one["image"]
        for where, template in pods([*yaml.safe_load_all(kustomize(tmp_path / "overlay"))])
        for one in containers(template)
        if where == "redis"
    )
    assert redis == f"redis:7.4.6@{SHA}"


@pytest.mark.process
def test_pin_refuses_images_without_a_digest(
    manifests: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(ValueError, match="no client of registries is installed: install crane or"):
        digest("redis:7")
    for script in ("echo not found >&2; exit 1", "echo latest"):
        program(tmp_path / "bin", "crane", script)
        assert main([manifests]) == 1
        said = capsys.readouterr()
        assert said.out == ""
        assert "k8s.pin: aigc-serve:0.1.0-ray2.60.0: crane says '" in said.err
