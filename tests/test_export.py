"""Every preset of every model is exported faithfully; what is not is refused and not published."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from aigc import export as exporter
from aigc import models
from aigc.artifact import Artifact, Store
from aigc.artifact.manifest import Manifest, Training
from aigc.export import PARITY_BATCHES, PARITY_MAX_ABS, PARITY_SAMPLES, PARITY_UINT8, write
from aigc.model import Export, GenerativeModel
from aigc.train import TrainState
from tests.fixtures.make import config, write_run

PRESETS = [f"{name}:{preset}" for name in models.names() for preset in models.load(name).PRESETS]


def manifest(reference: str) -> Manifest:
    """Provenance of a model that was never trained."""
    name, _, preset = reference.partition(":")
    training = Training(config={}, samples=0, data={}, wall_seconds=0.0, workers=0)
    return Manifest(
        name=name,
        version="1",
        family="",
        model=name,
        preset=preset,
        created="2026-01-01T00:00:00+00:00",
        licence="Apache-2.0",
        signatures={},
        reproducibility={},
        parity={},
        training=training,
    )


def awakened(reference: str) -> GenerativeModel:
    """A preset's model whose running statistics and weights are not those of the first moment."""
    state = TrainState(models.preset(reference))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, buffer in state.average.named_buffers():
            if "running_mean" in name:
                buffer.normal_(0, 0.1, generator=generator)
            if "running_var" in name:
                buffer.uniform_(0.5, 1.5, generator=generator)
    return state.served()


@pytest.mark.parametrize("reference", PRESETS)
def test_a_preset_is_exported_within_the_parity_budget(reference: str, tmp_path: Path) -> None:
    model = awakened(reference)
    classes = tuple(str(i) for i in range(model.config.num_classes))
    sealed = write(model, classes, manifest(reference), tmp_path)
    assert PARITY_SAMPLES >= 1000
    for name in sealed.signatures:
        assert sealed.parity[name].max_abs <= PARITY_MAX_ABS
        assert sealed.parity[name].uint8_mismatch <= PARITY_UINT8
        assert sealed.parity[name].batch_sizes == PARITY_BATCHES == (1, 2, 3, 7, 64)
    assert not list(tmp_path.glob("*.data"))  # weights are inside
    artifact = Artifact.open(tmp_path)
    for name, export in model.exports().items():
        inputs, outputs = artifact.references(name)
        assert all(len(array) == 16 for array in (*inputs.values(), *outputs.values()))
        with torch.no_grad():
            found = export.module(*(torch.from_numpy(array) for array in inputs.values()))
        found = found if isinstance(found, tuple) else (found,)
        for expected, tensor in zip(outputs.values(), found, strict=True):
            np.testing.assert_allclose(tensor.numpy(), expected, atol=1e-5, rtol=0)


def test_the_batch_axis_is_free_and_the_graph_is_valid(tmp_path: Path) -> None:
    artifact = Artifact.open(write_run_and_export(tmp_path))
    onnx.checker.check_model(onnx.load(Path(artifact.uri) / "generator.onnx"))
    for n in (1, 2, 5, 65):
        assert artifact.sample(seed=0, n=n, batch=n)["image"].shape == (n, 1, 8, 8)


def write_run_and_export(folder: Path) -> str:
    run = write_run(folder / "run", config())
    return exporter.export(run, name="tiny", store=Store(folder / "store"))


def test_decoder_and_sampler_of_a_vae_share_one_graph(tmp_path: Path) -> None:
    sealed = write(
        awakened("fc_vae:digits"), tuple("0123456789"), manifest("fc_vae:digits"), tmp_path
    )
    graphs = {name: signature.graph for name, signature in sealed.signatures.items()}
    assert graphs["sample"] == graphs["decode"]
    assert len(set(graphs.values())) == len([f for f in sealed.files if f.endswith(".onnx")]) == 3
    assert [n for n, s in sealed.signatures.items() if s.drawable] == ["sample"]


def test_the_exported_weights_are_the_averaged_ones(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", config())
    artifact = Artifact.open(exporter.export(run, name="tiny", store=Store(tmp_path / "store")))
    inputs, outputs = artifact.references("sample")
    state = run.trained()
    tensors = [torch.from_numpy(array) for array in inputs.values()]
    with torch.no_grad():
        averaged = state.served().generator(*tensors).numpy()
        raw = state.model.eval().generator(*tensors).numpy()
    np.testing.assert_allclose(outputs["image"], averaged, atol=1e-5)
    assert np.abs(outputs["image"] - raw).max() > 1e-4


class Skewed(nn.Module):
    """Computes something else in the graph than in torch."""

    def __init__(self, module: nn.Module, offset: float) -> None:
        super().__init__()
        self.module, self.offset = module, offset

    def forward(self, latent: Tensor, label: Tensor) -> Any:
        image = self.module(latent, label)
        return image + self.offset if torch.compiler.is_compiling() else image


def test_a_graph_that_differs_from_torch_is_refused_and_nothing_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "run", config())
    store = Store(tmp_path / "store")
    real = exporter.to_onnx

    def skewed(part: Export, path: Path) -> None:
        real(replace(part, module=Skewed(part.module, 1e-3)), path)

    monkeypatch.setattr(exporter, "to_onnx", skewed)
    with pytest.raises(ValueError, match=r"'sample' is not exported faithfully: max .*allowed"):
        exporter.export(run, name="tiny", store=store)
    assert store.names() == []


def test_versions_count_up_and_never_change(tmp_path: Path) -> None:
    run, store = write_run(tmp_path / "run", config()), Store(tmp_path / "store")
    first = exporter.export(run, name="tiny", store=store)
    second = exporter.export(run, name="tiny", store=store)
    assert [Artifact.open(uri).id for uri in (first, second)] == ["tiny@1", "tiny@2"]
    with pytest.raises(ValueError, match="tiny@2 exists already"):
        exporter.export(run, name="tiny", version="2", store=store)


def test_a_run_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    from aigc.run import Run

    run = Run(tmp_path / "run")
    with pytest.raises(ValueError, match="is no run"):
        exporter.export(run, name="tiny", store=Store(tmp_path))
    run.create(config())
    with pytest.raises(ValueError, match="no whole checkpoint yet"):
        exporter.export(run, name="tiny", store=Store(tmp_path))
