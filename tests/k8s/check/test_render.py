"""Folders, files and stdin become manifests, or say why not."""

import io
import shutil
from pathlib import Path

import pytest

from aigc.strict_yaml import documents
from k8s.check import render
from tests.k8s.programs import program

MAP = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s}\n"


def names(*sources: str | Path) -> list[str]:
    return [each["metadata"]["name"] for each in render.manifests(map(str, sources))]


@pytest.fixture
def overlay(tmp_path: Path) -> Path:
    """An overlay that gives its base's config map a prefix."""
    for folder, text in (("base", "resources: [map.yaml]"), ("overlay", "resources: [../base]")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "kustomization.yaml").write_text(f"{text}\n")
    (tmp_path / "base" / "map.yaml").write_text(MAP % "settings")
    with (tmp_path / "overlay" / "kustomization.yaml").open("a") as file:
        file.write("namePrefix: prod-\n")
    return tmp_path / "overlay"


@pytest.mark.process
def test_kustomization_is_rendered(overlay: Path) -> None:
    if not any(map(shutil.which, render.RENDERERS)):
        pytest.skip("neither kustomize nor kubectl is installed")
    assert names(overlay) == ["prod-settings"]
    (overlay / "kustomization.yaml").write_text("resources: [../nowhere]\n")
    with pytest.raises(ValueError, match=r"overlay failed: .*nowhere"):
        names(overlay)


@pytest.mark.process
def test_kustomize_precedes_kubectl_and_shows_warnings(
    overlay: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = (MAP % "$1-$2").replace("\n", r"\n")
    program(tmp_path / "bin", "kubectl", f'printf "{text}"')
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert names(overlay) == [f"kustomize-{overlay}"]
    program(tmp_path / "bin", "kustomize", f'echo "# Warning: old" >&2; printf "{text}"')
    assert names(overlay) == [f"build-{overlay}"]
    assert capsys.readouterr().err == "# Warning: old\n"


def test_missing_renderer_names_what_to_install(
    overlay: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(
        ValueError, match=r"neither kustomize nor kubectl is installed: install one"
    ):
        names(overlay)


def test_folder_without_kustomization_is_read_like_kubectl(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(MAP % "b" + "---\n---\n" + MAP % "c")
    (tmp_path / "a.json").write_text('{"kind": "ConfigMap", "metadata": {"name": "a"}}')
    (tmp_path / "notes.txt").write_text("no: [yaml")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "d.yaml").write_text(MAP % "d")
    assert names(tmp_path) == ["a", "b", "c"]
    assert names(tmp_path / "b.yaml", tmp_path / "below") == ["b", "c", "d"]


def test_stdin_and_lists_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    items = (
        '[{"kind": "Pod", "metadata": {"name": "a"}}, {"kind": "Pod", "metadata": {"name": "b"}}]'
    )
    text = f'{{"apiVersion": "v1", "kind": "List", "items": {items}}}'
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert names("-") == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no object to check in"),
        ("a: [", "file.yaml: no YAML: "),
        ("- 1", "file.yaml: an object with kind and metadata.name is expected, got"),
        ("kind: Pod", "file.yaml: a Pod has no metadata.name"),
        ("kind: Pod\nkind: Pod", "file.yaml: key 'kind' stands twice in the mapping at line 1"),
        ("kind: List\nitems: [1]", "file.yaml: an object with kind"),
    ],
)
def test_other_documents_are_refused(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "file.yaml").write_text(text)
    with pytest.raises(ValueError, match=reason):
        names(tmp_path / "file.yaml")


def test_missing_path_suggests_a_close_one(overlay: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere: No such file"):
        names(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=rf"no manifests; there are kustomizations in .*{overlay}"):
        names(tmp_path)


def test_yaml_is_read_strictly_and_completely() -> None:
    text = "a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: {<<: *a, x: 3}\noperator: =\n"
    assert list(documents(text)) == [
        {"a": {"x": 1}, "b": {"x": 1, "y": 2}, "c": {"x": 3}, "operator": "="}
    ]
    with pytest.raises(ValueError, match="key 'x' stands twice in the mapping at line 2"):
        list(documents("a:\n  x: 1\n  x: 2\n"))
