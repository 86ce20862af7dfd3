"""Each page is in the index, links and files exist, the uses of Ray's internals are listed."""

import re
from itertools import pairwise
from pathlib import Path

import pytest

from aigc import data, models
from aigc.training.preflight import rehearse

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
TEXTS = [*PAGES, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "k8s/README.md"))]
NAMES = [str(path.relative_to(ROOT)) for path in TEXTS]
LINK = re.compile(r"\]\(([^)\s]+)\)")
FILE = re.compile(r"`((?:aigc|cluster|serve|k8s|tests|benchmarks|docs|requirements)/[\w./-]+)`")
PRIVATE = re.compile(
    r"ray\._private|ray\.serve\._private|ray\.train\.v2|_get_global_client|_TorchBackend"
    r"|_initialize_and_run_controller|__serve_build_asgi_app__|_temp_dir=|SETUP_HOOK_ENV_VAR"
)


def prose(path: Path) -> str:
    """A page without its code blocks."""
    return re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)


def anchors(path: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_index_lists_every_page_once() -> None:
    lines = re.findall(r"^- \[.+?\]\((\w[\w-]*\.md)\)", (DOCS / "README.md").read_text(), re.M)
    assert sorted(lines) == [path.name for path in PAGES if path.name != "README.md"]


@pytest.mark.parametrize("path", TEXTS, ids=NAMES)
def test_links_lead_somewhere(path: Path) -> None:
    for link in LINK.findall(prose(path)):
        place, _, anchor = link.partition("#")
        if "://" in place:
            continue
        target = path if not place else (path.parent / place).resolve()
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("path", TEXTS, ids=NAMES)
def test_named_files_exist(path: Path) -> None:
    for name in FILE.findall(path.read_text()):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("path", TEXTS, ids=NAMES)
def test_no_heading_occurs_twice(path: Path) -> None:
    headings = sorted(re.findall(r"^#+ .+$", prose(path), re.MULTILINE))
    assert [one for one, other in pairwise(headings) if one == other] == []


def test_every_use_of_rays_internals_is_on_its_page() -> None:
    """docs/ray.md names each such file, and the tests that `make ray-upgrade` runs."""
    page = (DOCS / "ray.md").read_text()
    for package in ("cluster", "serve", "k8s"):
        for path in (ROOT / package).rglob("*.py"):
            if PRIVATE.search(path.read_text()):
                assert f"`{path.relative_to(ROOT)}`" in page


@pytest.mark.process
def test_example_model_can_be_trained_and_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _ = re.findall(r"```python\n(.*?)```", (DOCS / "architecture.md").read_text(), re.DOTALL)
    (tmp_path / "patch_gan.py").write_text(code)
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path)])
    config = models.preset("patch_gan:digits")
    assert rehearse(config, data.load(config.data, config.model)) == []


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 200
