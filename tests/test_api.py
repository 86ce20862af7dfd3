"""`import aigc`: light, complete, and the same as the command line."""

import inspect
import json
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import aigc
from aigc.commands import evaluate, export
from cluster.train import Options
from tests import api_page

HEAVY = {"torch", "ray", "numpy", "onnxruntime", "tyro", "msgspec", "aigc.config", "cluster"}


def python(code: str, folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a program in a folder, with this environment's packages."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.mark.process
def test_import_loads_nothing_and_lists_everything(tmp_path: Path) -> None:
    code = """if True:
    import json, sys, time
    before, seconds = set(sys.modules), []
    for _ in range(5):
        for name in set(sys.modules) - before:
            del sys.modules[name]
        began = time.process_time()
        import aigc
        seconds.append(time.process_time() - began)
    print(json.dumps([dir(aigc), sorted(set(sys.modules) - before), min(seconds)]))
    """
    names, loaded, seconds = json.loads(python(code, tmp_path).stdout)
    assert set(aigc.__all__) <= set(names)
    assert HEAVY.isdisjoint(loaded)
    assert {name for name in loaded if name.startswith("aigc")} == {"aigc"}
    assert {name.partition(".")[0] for name in loaded} <= {
        *("aigc", "typing", "_typing", "collections")
    }
    assert len(loaded) < 8
    assert seconds < 0.05  # of the processor, the least of five: 0.003 here


@pytest.mark.parametrize("name", aigc.__all__)
def test_every_name_is_there_and_documented(name: str) -> None:
    value = getattr(aigc, name)
    assert value.__name__ == name
    assert inspect.getdoc(value)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'aigc' has no attribute 'trian'"):
        _ = aigc.trian


@pytest.mark.parametrize(
    ("function", "options", "other"),
    [
        (aigc.export, export.Options, set()),
        (aigc.evaluate, evaluate.Options, set()),
        # Config and Run stand for the flags that name one, and nothing is only shown or written.
        (aigc.train, Options, {"config_file", "like", "dry_run", "save"}),
    ],
)
def test_functions_take_what_their_commands_take(
    function: object, options: type, other: set[str]
) -> None:
    parameters = inspect.signature(function).parameters  # type: ignore[arg-type]
    taken = parameters.keys() - {"changes"}
    assert taken == {field.name for field in fields(options)} - other
    for field in fields(options):
        if field.name in taken and isinstance(field.default, str | int | bool):
            assert str(parameters[field.name].default) == str(field.default), field.name


@pytest.mark.process
def test_missing_package_is_named_with_its_extra(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('no torch', name='torch')\n")
    run = python("import aigc; aigc.train", tmp_path)
    assert run.stderr.splitlines()[-1] == (
        "ImportError: aigc.train needs torch; pip install 'aigc[train]'"
    )


@pytest.mark.process
@pytest.mark.parametrize("mine", ["cluster.py", "cluster/__init__.py", "cluster/notes.txt"])
def test_own_module_in_the_place_of_ours_is_named(mine: str, tmp_path: Path) -> None:
    (tmp_path / mine).parent.mkdir(exist_ok=True)
    (tmp_path / mine).write_text("")
    run = python("import aigc; aigc.train", tmp_path)
    place = tmp_path / Path(mine).parts[0]
    said = f"aigc.train: {place} stands where Python looks for 'cluster' of aigc; rename it"
    assert said in run.stderr.splitlines()[-1]
    command = subprocess.run(
        [sys.executable, "-m", "aigc.cli", "train", "dcgan"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert command.returncode == 1
    assert command.stderr.startswith(f"aigc train: {place} stands where Python looks")


@pytest.mark.process
def test_road_from_preset_to_evaluation(tmp_path: Path) -> None:
    storage = tmp_path / "runs"
    run = aigc.train(
        "fc_gan:mlp",
        samples=640,
        batch=32,
        report_interval=64,
        grid_interval=0,
        threads=1,
        model={"generator_widths": [8], "discriminator_widths": [8]},
        storage=storage,
        name="small",
    )
    assert repr(run) == f"<aigc.Run {storage / 'small'}>"
    assert run.config().model.generator_widths == (8,)
    samples, loss = run.curves()["generator/loss"]
    assert samples.tolist() == list(range(64, 641, 64))
    assert np.isfinite(loss).all()
    assert [line["samples"] for line in run.metrics()] == samples.tolist()
    assert [axis.shape for axis in run.quality()] == [(0,), (0,)]
    longer = aigc.train(run, resume=True, samples=704)
    assert longer.facts()["samples"] == 704
    artifact = aigc.export(longer, name="small", out=tmp_path / "artifacts")
    assert artifact.id == "small@1"
    assert artifact.sample(seed=0, n=2)["image"].shape == (2, *run.config().model.shape)
    with pytest.raises(ValueError, match="exists; continue it with --resume or give another"):
        aigc.train(run.config(), storage=storage, name="small")


def test_changes_of_a_config_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no field sampels; did you mean 'samples'"):
        aigc.train("fc_gan", sampels=3, storage=tmp_path)
    with pytest.raises(ValueError, match=r"model\.latent must be int, got str"):
        aigc.train("fc_gan", model={"latent": "x"}, storage=tmp_path)
    assert not [*tmp_path.iterdir()]


def test_evaluate_refuses_as_the_command_does(sealed: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no artifact 'absent'"):
        aigc.evaluate(tmp_path / "absent")
    with pytest.raises(ValueError, match="n must be > 0, got 0"):
        aigc.evaluate(sealed, n=0)
    with pytest.raises(ValueError, match="reads no files; leave it out"):
        aigc.evaluate(sealed, data=tmp_path)


def test_what_is_no_run_has_no_curves(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is not a run: it has no config\.json"):
        aigc.Run(tmp_path).curves()


def test_page_is_up_to_date() -> None:
    assert api_page.PAGE.read_text() == api_page.page(), "run python -m tests.api_page"


@pytest.mark.cluster
def test_examples_of_the_page_run(tmp_path: Path) -> None:
    """In order, in one program, with shorter runs; the artifact of the example has no encoder."""
    for number in range(24):
        pixels = np.random.default_rng(number).integers(0, 256, (12, 12, 3), np.uint8)
        (tmp_path / "pictures").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{number}.png")
    blocks = re.findall(r"```python\n(.*?)```", api_page.PAGE.read_text(), re.DOTALL)
    program = "import aigc\nfrom aigc import Artifact\n" + "\n".join(blocks)
    program = re.sub(r"samples=[\d_]+", "samples=640, batch=32, threads=1", program)
    lines = [line for line in program.splitlines() if '"encode"' not in line]
    run = python("\n".join(lines), tmp_path, OMP_NUM_THREADS="1")
    assert run.returncode == 0, run.stderr
    assert "http://127.0.0.1:" in run.stdout
