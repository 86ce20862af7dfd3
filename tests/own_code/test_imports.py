"""Modules of its own package that a module imports, found without running any."""

from pathlib import Path

import pytest

from aigc.own_code import code_files
from aigc.own_code.imports import own_imports
from tests.own_files import write

BROKEN = "raise SystemExit('not to be run')\n"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def package(site: Path, name: str, **modules: str) -> None:
    for module, text in {"__init__": "", **modules}.items():
        path = site / name / f"{module.replace('__of__', '/')}.py"
        write(path.parent, text, path.name)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import treeA.layers", "layers"),
        ("import treeA.layers as l, numpy", "layers"),
        ("from treeA.layers import WIDTH", "layers"),
        ("from treeA import layers, VERSION", "layers"),
        ("from . import layers", "layers"),
        ("from .layers import *", "layers"),
        ("from .deep import leaf", "deep deep.leaf"),
        ("from .deep.leaf import x", "deep deep.leaf"),
        ("def late():\n    from . import layers", "layers"),
        ("from .. import outside", ""),
        ("from .missing import x", ""),
        ("import torch, os", ""),
        ("import (", ""),
    ],
)
def test_each_form_of_import_is_followed(text: str, found: str, site: Path) -> None:
    modules = {"layers": BROKEN, "deep__of____init__": BROKEN, "deep__of__leaf": BROKEN}
    package(site, "treeA", points=text, unused="", **modules)
    hashes = own_imports("treeA.points")
    assert list(hashes) == ["treeA", *(f"treeA.{name}" for name in found.split())]


def test_imports_are_followed_from_module_to_module_and_in_circles(site: Path) -> None:
    package(
        site,
        "treeB",
        points="from . import a",
        a="from .b import x",
        b="import treeB.points, treeB.a",
    )
    hashes = own_imports("treeB.points")
    assert list(hashes) == ["treeB", "treeB.a", "treeB.b"]
    assert hashes["treeB.b"] == code_files.digest(b"import treeB.points, treeB.a")


def test_other_modules_of_a_distribution_count_and_other_distributions_do_not(site: Path) -> None:
    write(site, "import treeD_layers, treeE\n", "treeD.py")
    write(site, "", "treeD_layers.py")
    write(site, "", "treeE.py")
    metadata = site / "tree_d-1.0.dist-info"
    write(metadata, "Metadata-Version: 2.1\nName: tree-d\nVersion: 1.0\n", "METADATA")
    write(metadata, "treeD\ntreeD_layers\n", "top_level.txt")
    assert list(own_imports("treeD")) == ["treeD_layers"]
