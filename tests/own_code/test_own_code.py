"""References to built-in code, entry points, modules and files; what each of them must define."""

from pathlib import Path

import pytest

from aigc import data, models, own_code
from aigc.own_code import DATA, METRICS, MODELS, code_files
from tests.own_files import GAN, SOURCE, install, write


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the import path, and the working folder."""
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "site"


def test_a_file_is_named_by_its_contents_wherever_it_lies(tmp_path: Path) -> None:
    one = own_code.find(MODELS, str(write(tmp_path / "a", GAN)))
    with (tmp_path / "points.py").open("wb") as file:
        file.write(GAN.replace("\n", "\r\n").encode())
    link = tmp_path / "points" / "points.py"
    link.parent.mkdir()
    link.symlink_to(tmp_path / "points.py")
    assert own_code.find(MODELS, str(link)) == one
    assert one.name == f"points@{one.record()['sha256'][:12]}"
    changed = own_code.find(MODELS, str(write(tmp_path / "b", GAN.replace("8", "16"))))
    assert changed.name != one.name
    assert one.load().Config().width == 8
    assert changed.load().Config().width == 16


def test_a_file_is_run_once_and_prints_to_stderr(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = str(write(tmp_path, f"print('run')\n{GAN}"))
    assert models.load(file) is models.load(file)
    assert capfd.readouterr() == ("", "run\n")


def test_presets_of_a_file_hold_names_that_a_config_may_keep(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = GAN.replace('source="ring"', 'source="line.py"')
    file = own_code.find(MODELS, str(write(tmp_path / "own", text)))
    line = own_code.find(DATA, str(write(tmp_path / "own", SOURCE, "line.py")))
    write(tmp_path / "copy", text)
    assert models.preset("copy/points.py").data.source == "copy/line.py"  # which is not there
    config = models.preset("own/points.py")  # its source is beside it, not in this folder
    assert config.preset == f"{file.name}:small"
    assert config.data.source == line.name
    assert own_code.settled(config) == config
    assert models.build(config).config.width == 8
    assert models.run_name(config) == "points-small"
    odd = models.preset(str(write(tmp_path / "own", text, "My_Points.py")))
    assert models.run_name(odd) == "my_points-small"


def test_entry_points_and_modules_of_installed_packages_are_found(path: Path) -> None:
    install(path, "shapes", "[aigc.models]\npoints = shapes.points\n", points=GAN)
    config = models.preset("points:small")
    assert config.preset == "shapes.points:small"
    assert models.preset("shapes.points") == config
    place = own_code.find(MODELS, "points")
    assert place.record()["distributions"] == {"shapes": "1.2"}
    assert place.record()["sha256"] == code_files.digest(GAN.encode())
    assert ("points", "shapes 1.2, shapes.points") in list(own_code.listed(MODELS))
    assert "points" in own_code.names(MODELS)
    assert "points" not in models.names()


def test_a_name_that_two_packages_claim_is_refused(path: Path) -> None:
    for package in ("circles", "squares"):
        install(path, package, f"[aigc.data]\nline = {package}.line\n", line=SOURCE)
    with pytest.raises(ValueError, match=r"'line' is declared by circles 1.2 .*squares 1.2 .*name"):
        own_code.find(DATA, "line")
    assert own_code.find(DATA, "squares.line").name == "squares.line"


def test_a_built_in_name_comes_first(path: Path) -> None:
    install(path, "rings", "[aigc.data]\nring = rings.ring\n", ring="broken")
    assert own_code.find(DATA, "ring").built_in
    assert ("ring", "rings 1.2, rings.ring; hidden by the built-in one") in list(
        own_code.listed(DATA)
    )


def test_built_in_code_has_the_members_that_users_must_define() -> None:
    assert MODELS.built_in() == models.names()
    assert DATA.built_in() == data.names()
    for kind in (DATA, METRICS):
        for name in kind.built_in():
            module = own_code.find(kind, name).load()
            assert any(hasattr(module, member) for member in kind.members), name


MISTAKES = {
    "": "defines no Config; add Config, a frozen dataclass that inherits aigc.config.ModelConfig",
    GAN.replace("PRESETS =", "OTHER ="): "defines no PRESETS; add PRESETS, a dict from names to",
    GAN.replace('{"small": small}', "{}"): "PRESETS must be a dict from names to functions",
    GAN.replace("(GANConfig)", ""): "Config must be a frozen dataclass that inherits",
    GAN.replace("nn.Tanh()", "nn.Tanh("): r"line 2\d: SyntaxError: ",
    GAN.replace("8", "eight"): "line 14: cannot be imported, NameError: name 'eight' is not defined"
    r" \(in `width: int = eight`\)",
    f"import nowhere_at_all\n{GAN}": "No module named 'nowhere_at_all'.*; install the package",
    f"{GAN}\nraise SystemExit(1)": "SystemExit: 1.*begin what runs it as a program with `if __n",
    f"from .blocks import X\n{GAN}": "line 1: imports files beside it but one file alone travels",
    f"import blocks\n{GAN}": r"imports blocks, which lies beside it.*PACKAGE\.MODULE",
}


@pytest.mark.parametrize("text", MISTAKES, ids=range(len(MISTAKES)))
def test_mistakes_in_a_file_are_told_in_a_sentence(text: str, tmp_path: Path) -> None:
    write(tmp_path, "", "blocks.py")
    file = write(tmp_path, text)
    with pytest.raises(ValueError, match=MISTAKES[text]) as caught:
        models.preset(str(file))
    assert str(caught.value).startswith(str(file))


def test_references_that_lead_nowhere_are_told(path: Path, tmp_path: Path) -> None:
    write(tmp_path, GAN)
    install(path, "odd", "[aigc.models]\nodd = odd.points:Model\n", points="raise OSError('no')")
    for reference, message in {
        "./pionts.py": "there is no file ./pionts.py",
        str(tmp_path): "is a folder; name the file in it",
        "./points": "has no suffix .py; name a Python file",
        "a b.py": "there is no file a b.py",
        "points@0123456789ab": "is code of a run that is not open here; name its file",
        "odd": "names odd.points:Model; it must name a module, such as odd.points",
        "odd.points": "module odd.points cannot be imported: OSError: no",
        "odd.none": "unknown model 'odd.none'; there are: ",
        "json": "unknown model 'json'",
        "./points.py:big": "has no preset 'big'; there are: small",
    }.items():
        with pytest.raises(ValueError, match=message):
            models.preset(reference)


def test_an_error_in_a_file_is_placed(tmp_path: Path) -> None:
    file = write(tmp_path, f"{GAN}\ndef fails():\n    return 1 / 0\n")
    module = models.load(str(file))
    with pytest.raises(ZeroDivisionError) as caught:
        module.fails()  # type: ignore[attr-defined]
    last = len(file.read_text().splitlines())
    assert code_files.place(caught.value) == f"{file}, line {last}"
    assert code_files.place(ValueError()) == ""


def test_a_file_below_a_package_of_its_folder_may_import_it(path: Path) -> None:
    install(path, "blocks", "")
    file = write(path, f"import blocks\n{GAN}")
    assert models.preset(str(file)).preset.startswith("points@")
