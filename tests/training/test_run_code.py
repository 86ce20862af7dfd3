"""Code of a user's in a run: it travels, is what the run was begun with, and is nowhere else."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from aigc.artifact import Artifact, Store
from aigc.commands.evaluate import command as evaluate
from aigc.commands.export import export
from aigc.own_code import code_files
from aigc.training import checkpoint
from aigc.training.run import Run
from cluster.train import command
from tests.own_files import GAN, METRIC, SOURCE, forget, install, write

pytestmark = pytest.mark.process

OTHER = GAN.replace("nn.Tanh()", "nn.ReLU()")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, GAN)
    write(tmp_path, SOURCE, "line.py")


def train(
    *flags: str,
    samples: int = 64,
    storage: str = "runs",
    threads: tuple[str, ...] = ("--threads", "1"),
) -> Run:
    flags = (*flags, *threads, "--samples", str(samples), "--name", "run")
    assert command([*flags, "--storage", storage]) == 0
    return Run.open(f"{storage}/run")


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Run, str]]:
    """A run whose files were spoilt after it began, resumed and exported by its folder alone."""
    folder = tmp_path_factory.mktemp("spoilt")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        files = {"points.py": GAN.replace('"ring"', '"line.py"'), "line.py": SOURCE}
        for name, text in files.items():
            write(folder, text, name)
        train("./points.py")
        for name in files:
            write(folder, "raise SystemExit('this is no file of the run')", name)
        forget(monkeypatch)
        run = Run(folder / "runs" / "run")
        config = run.config()
        model, source = (
            f"{run.folder}/code/{name}.py" for name in (config.model_name, config.data.source)
        )
        train(model, "--data.source", source, "--resume", samples=128)
        forget(monkeypatch)
        yield run, export(run, name="points", store=Store(folder / "store"))


def test_a_run_goes_on_and_is_exported_when_the_files_are_gone(spoilt: tuple[Run, str]) -> None:
    run, uri = spoilt
    assert run.facts()["samples"] == 128
    entries = run.document()["code"]
    assert [entry["file"] for entry in entries.values()] == ["points.py", "line.py"]
    assert sorted(path.stem for path in (run.folder / "code").iterdir()) == sorted(entries)
    artifact = Artifact.open(uri)
    assert artifact.manifest.training.config["code"] == entries
    assert artifact.manifest.model == next(iter(entries))
    assert not any(path.endswith(".py") for path in artifact.manifest.files)


def test_a_changed_file_is_refused_on_resume_or_taken_and_noted(tmp_path: Path) -> None:
    run = train("./points.py")
    before = run.config().preset
    write(tmp_path, OTHER)
    with pytest.raises(
        ValueError, match=r"points.py has changed since .*run was begun.*--code new"
    ):
        train("./points.py", "--resume", samples=128)
    assert run.facts()["samples"] == 64
    train("./points.py", "--resume", "--code", "new", samples=128)
    after = run.config().preset
    assert after != before
    (event,) = [entry for entry in run.history() if entry.get("event") == "config"]
    assert event["changed"]["preset"] == [before, after]
    assert {f"{name.partition(':')[0]}.py" for name in (before, after)} == {
        path.name for path in (run.folder / "code").iterdir()
    }
    # Nothing but the version of the same preset may be new.
    with pytest.raises(ValueError, match="cannot resume with another seed: 0 -> 1"):
        train("./points.py", "--resume", "--code", "new", "--seed", "1", samples=256)


def test_a_changed_data_source_is_refused_on_resume(tmp_path: Path) -> None:
    train("./points.py", "--data.source", "./line.py")
    write(tmp_path, SOURCE + "\n# another comment\n", "line.py")
    with pytest.raises(ValueError, match=r"line\.py has changed since"):
        train("./points.py", "--data.source", "./line.py", "--resume", samples=128)


def test_an_altered_copy_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train("./points.py")
    (copy,) = (run.folder / "code").iterdir()
    copy.write_text(f"raise SystemExit\n{GAN}")
    forget(monkeypatch)
    with pytest.raises(
        ValueError, match=r"points@\w+.py was altered: its sha256 is \w+, the run's"
    ):
        run.load_state()
    copy.unlink()
    with pytest.raises(ValueError, match="is missing, the code that the run was begun with"):
        run.load_state()


def test_two_runs_of_different_files_of_one_name_live_in_one_process(tmp_path: Path) -> None:
    one = train("./points.py", storage="a")
    write(tmp_path, OTHER)
    two = train("./points.py", storage="b")
    models = [run.load_state().model for run in (one, two)]
    assert [type(model.discriminator.layers[1]) for model in models] == [  # type: ignore[index,union-attr]
        torch.nn.Tanh,
        torch.nn.ReLU,
    ]
    assert one.load_state().model.discriminator.layers[1](torch.tensor(-1.0)) < 0  # type: ignore[index,union-attr,operator]


def test_a_package_must_be_what_the_run_was_begun_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    monkeypatch.syspath_prepend(site)
    install(site, "mypoints", "[aigc.models]\nmine = mypoints.points\n", points=GAN)
    run = train("mine")
    (entry,) = run.document()["code"].values()
    assert entry["distributions"] == {"mypoints": "1.2"}
    assert not (run.folder / "code").exists()
    write(site / "mypoints", f"{GAN}\n# changed\n")
    with pytest.raises(ValueError, match=r"module mypoints.points is not the one.*mypoints==1.2"):
        run.load_state()
    with pytest.raises(ValueError, match=r"mypoints.points has changed.*install mypoints==1.2, or"):
        train("mine", "--resume", samples=128)
    train("mine", "--resume", "--code", "new", samples=128, threads=())
    (event,) = [entry for entry in run.history() if entry.get("event") == "config"]
    assert event["changed"]["code.mypoints.points"][0] == entry["sha256"]
    assert run.facts()["samples"] == 128


def test_modules_that_a_packages_module_imports_must_be_those_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, layers = tmp_path / "site", "from . import names\nWIDTH = 8\n"
    monkeypatch.syspath_prepend(site)
    modules = {"layers": layers, "names": "", "others": ""}
    install(site, "nested", "", points=f"from nested.layers import WIDTH\n{GAN}", **modules)
    run = train("nested.points")
    (entry,) = run.document()["code"].values()
    assert list(entry["imports"]) == ["nested", "nested.layers", "nested.names"]
    write(site / "nested", "changed", "others.py")
    run.config()
    for name, samples in (("names", 128), ("layers", 192)):
        write(site / "nested", f"{modules[name]}# changed\n", f"{name}.py")
        said = rf"nested\.{name}, which nested.points imports, (is not the one|has changed)"
        with pytest.raises(ValueError, match=said):
            run.load_state()
        with pytest.raises(ValueError, match=said):
            train("nested.points", "--resume", samples=samples)
        train("nested.points", "--resume", "--code", "new", samples=samples)
        run.config()
    events = [entry for entry in run.history() if entry.get("event") == "config"]
    assert events[0]["changed"]["code.nested.names"][0] == entry["imports"]["nested.names"]
    assert "code.nested.layers" in events[1]["changed"]


def test_runs_that_hashed_the_module_alone_or_other_imports_still_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    monkeypatch.syspath_prepend(site)
    install(site, "former", "", points=f"import former.layers\n{GAN}", layers="")
    run = train("former.points")
    document = run.document()
    del document["code"]["former.points"]["imports"]
    (run.folder / "config.json").write_text(json.dumps(document))
    train("former.points", "--resume", samples=128)
    document = run.document()
    (entry,) = document["code"].values()
    assert list(entry["imports"]) == ["former", "former.layers"]
    # As another way of installing it finds other modules: those of one side only are not changed.
    entry["imports"] = {"former": entry["imports"]["former"], "former._speedups": "0" * 64}
    (run.folder / "config.json").write_text(json.dumps(document))
    train("former.points", "--resume", samples=192)
    changes = [name for entry in run.history() for name in entry.get("changed", {})]
    assert "samples" in changes
    assert not [name for name in changes if name.startswith("code.")]


def test_a_run_on_an_object_store_brings_its_code(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "one machine"))
    begun = train("./points.py", storage=bucket)
    assert sorted(path.name for path in (begun.folder / "code").iterdir()) == [
        f"{begun.config().model_name}.py"
    ]
    forget(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another machine"))
    (tmp_path / "points.py").unlink()
    found = Run.open(f"{bucket}/run")
    assert tmp_path in found.folder.parents
    assert checkpoint.tensors(found.load_state()).keys()


def test_evaluation_runs_no_code_that_an_artifact_names(
    spoilt: tuple[Run, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, uri = spoilt
    write(tmp_path, METRIC, "off.py")
    forget(monkeypatch)
    with pytest.raises(
        ValueError, match=r"source line@\w+, code that an artifact never.*./line.py"
    ):
        evaluate([uri])
    with pytest.raises(ValueError, match="nothing judges its samples"):
        evaluate([uri, "--source", "./line.py"])
    assert evaluate([uri, "--source", "./line.py", "--metrics", "./off.py"]) == 0
    said = capsys.readouterr().err
    assert "off_the_line" in said
    assert "the data source is" not in said
    assert all(not name.startswith("points@") for name in code_files._known)
    evaluate([uri, "--source", "ring", "--metrics", "./off.py"])
    recorded = run.document()["data"]["source"]
    assert f"the data source is ring, the run's was {recorded}" in capsys.readouterr().err


def test_quality_is_measured_by_a_metric_of_ones_own(tmp_path: Path) -> None:
    write(tmp_path, METRIC, "off.py")
    flags = ("./points.py", "--quality", "./off.py", "--evaluate-interval", "32")
    run = train(*flags)
    lines = map(json.loads, (run.folder / "quality.jsonl").read_text().splitlines())
    assert [line["quality"] > 0 for line in lines] == [True] * (run.config().samples // 32)
    assert (run.folder / "code" / f"{run.config().quality}.py").read_text() == METRIC
