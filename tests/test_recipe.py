"""Configs in YAML: every preset comes back from its file, mistakes are named with their line."""

from dataclasses import replace
from pathlib import Path

import pytest

from aigc import models, recipe
from aigc.field_docs import field_docs, first_sentence
from aigc.models import dcgan

PRESETS = [f"{name}:{preset}" for name in models.names() for preset in models.load(name).PRESETS]


@pytest.mark.parametrize("preset", PRESETS)
def test_written_config_is_read_back(preset: str, tmp_path: Path) -> None:
    config = replace(models.preset(preset), seed=7, price_per_worker_hour=1e-05)
    recipe.write(tmp_path / "run.yaml", config)
    assert recipe.read(tmp_path / "run.yaml") == config


def test_written_config_explains_its_fields(tmp_path: Path) -> None:
    recipe.write(tmp_path / "run.yaml", models.preset("dcgan:digits"))
    lines = (tmp_path / "run.yaml").read_text().splitlines()
    at = lines.index("batch: 64")
    assert lines[at - 1] == "# Global batch size; each worker takes its slice of it."
    assert "  # Adversarial loss; see aigc/nn/losses.py." in lines
    assert all(len(line) <= 100 for line in lines)


def test_file_gives_only_what_differs_from_the_preset(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("preset: dcgan\nmodel: {latent: 8, generator_optimizer: {learning_rate: 1e-4}}")
    preset = models.preset("dcgan")
    config = recipe.read(file)
    assert isinstance(config.model, dcgan.Config)
    assert config.model.latent == 8
    assert config.model.generator_optimizer.learning_rate == 1e-4
    assert config.model.generator_optimizer.betas == preset.model.generator_optimizer.betas
    assert replace(config, model=preset.model) == preset


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("preset: dcgn", "line 1: unknown model 'dcgn'; did you mean 'dcgan'?"),
        ("batch: 3", "a config needs `preset: MODEL:PRESET`"),
        ("", "a config needs `preset: MODEL:PRESET`"),
        ("preset: dcgan\nsampels: 3", "line 2: there is no field sampels; did you mean 'samples'?"),
        ("preset: dcgan\nlatent: 3", "line 2: there is no field latent; did you mean 'model.lat"),
        ("preset: dcgan\nmodel:\n  latnt: 3", "line 3: there is no field model.latnt"),
        ("preset: dcgan\nmodel:\n  latent: x", "line 3: model.latent must be int, got str"),
        ("preset: dcgan\nmodel: 3", "line 2: model must be a mapping of its fields, got 3"),
        ("preset: dcgan\n\nsamples: -3", "line 3: samples must be > 0, got -3"),
        ("preset: dcgan\nprecision: half", "line 2: precision must be one of float32, bfloat16"),
        (
            "preset: dcgan:digits\nmodel: {augmentation: [flp]}",
            "line 2: model.augmentation must be one of flip, colour, translation, cutout",
        ),
        (
            "preset: dcgan\nmodel:\n  generator_optimizer:\n    learning_rate: -1",
            "line 4: learning_rate must be > 0, got -1.0",
        ),
        ("preset: dcgan\nseed: 010", "line 2: 010 is 8 to some readers of YAML"),
        ("preset: dcgan\nseed: 1\nseed: 2", "key 'seed' stands twice"),
        ("preset: [dcgan", "no YAML"),
    ],
)
def test_mistake_is_named_with_file_and_line(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"run\.yaml") as error:
        recipe.read(file)
    assert said in str(error.value)


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shared").mkdir()
    monkeypatch.chdir(tmp_path)
    preset = models.preset("dcgan:digits")
    data = replace(preset.data, source="folder", path="pictures")
    config = replace(preset, data=data, init_from="s3://bucket/runs/first")
    recipe.write(Path("shared/run.yaml"), config)
    assert "path: ../pictures" in Path("shared/run.yaml").read_text()
    assert recipe.read(Path("shared/run.yaml")) == config
    monkeypatch.chdir(tmp_path / "shared")
    assert recipe.read(Path("run.yaml")).data.path == "../pictures"


def test_model_in_a_file_is_named_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code = "from aigc.models.fc_gan import Config, Model, PRESETS\n"
    Path("mine.py").write_text(code)
    Path("shared").mkdir()
    config = models.preset("./mine.py:ring")
    recipe.write(Path("shared/run.yaml"), config)
    assert "preset: ../mine.py:ring" in Path("shared/run.yaml").read_text()
    assert recipe.read(Path("shared/run.yaml")) == config
    recipe.write(Path("run.yaml"), config)
    assert "preset: ./mine.py:ring" in Path("run.yaml").read_text()


def test_no_file_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("mine")
    with pytest.raises(ValueError, match=r"run\.yaml exists; give another name"):
        recipe.write(tmp_path / "run.yaml", models.preset("dcgan"))
    assert (tmp_path / "run.yaml").read_text() == "mine"


def test_docstrings_of_fields_are_found_through_base_classes() -> None:
    docs = field_docs(dcgan.Config)
    assert docs["latent"] == "Number of latent dimensions."
    assert docs["discriminator_kernel"] == "Kernel size of the convolutions."
    text = "As in Miyato et al. 2018, `x`. It has more."
    assert first_sentence(text) == "As in Miyato et al. 2018, `x`."
