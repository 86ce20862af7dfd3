"""Rows of a run's data as the inputs that int8-conv is calibrated on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aigc import data
from aigc.artifact import Artifact, Signature, TensorSpec
from aigc.artifact.axes import Axis
from aigc.commands.calibration_data import data_inputs
from aigc.config import DataConfig
from aigc.sealing.calibration import calibration_inputs, recorded
from aigc.training.run import Run
from tests.fixtures.make import config

LABEL = TensorSpec(name="class", kind="label", dtype="int64", shape=(), range=(0, 9))
PIXEL = TensorSpec(name="x", kind="image", dtype="float32", shape=(1, 8, 8), range=(-1, 1))


def of(*inputs: TensorSpec, **axes: Axis) -> Signature:
    return Signature(graph="x.onnx", inputs=inputs, outputs=inputs, axes=axes)


def test_rows_are_the_first_of_the_training_data_in_the_order_of_seed_0() -> None:
    inputs = data_inputs(config()).read(of(PIXEL, LABEL), 5)
    source = data.load(config().data, config().model)
    for i, row in enumerate(source.order(0, 0)[:5]):
        pixels, label = source.read(int(row))
        assert np.array_equal(inputs["x"][i], data.scaled(pixels))
        assert inputs["class"][i] == label


def test_images_are_brought_to_size_and_range_of_the_input() -> None:
    small = replace(PIXEL, shape=(1, 4, 4), range=(0, 255))
    read = data_inputs(config()).read
    found = read(of(small), 3)["x"]
    assert found.shape == (3, 1, 4, 4)
    assert 0 <= found.min() < 100 < found.max() <= 255
    free = replace(PIXEL, shape=(1, "h", "w"))
    within, beyond = (
        read(of(free, h=axis, w=axis), 1)["x"]
        for axis in (Axis(min=4, max=8, default=4), Axis(min=4, max=6, default=5))
    )
    assert within.shape == (1, 1, 8, 8)  # as the data are
    assert beyond.shape == (1, 1, 5, 5)


def test_parts_of_a_record_go_to_the_inputs_of_their_kind(joined: Path) -> None:
    run = Run.open(joined.parent.parent.parent / "run")
    translate = Artifact.open(joined, verify=False).signature("translate")
    inputs = data_inputs(run.config()).read(translate, 4)
    named = {spec.name: spec for spec in translate.inputs}
    assert {named[name].kind for name in inputs} == {"image", "text", "audio"}
    for name, array in inputs.items():
        assert array.shape == (4, *named[name].fixed_shape)
        assert array.dtype == named[name].dtype


def test_data_that_are_not_there_are_named_with_what_to_do(tmp_path: Path) -> None:
    there = replace(config(), data=DataConfig(source="folder", path=str(tmp_path / "nowhere")))
    with pytest.raises(ValueError, match=r"cannot be read: .*nowhere.*take --precision int8"):
        data_inputs(there).read(of(PIXEL), 1)


def test_a_recorded_value_without_rows_is_refused() -> None:
    x = TensorSpec(name="x", kind="vector", dtype="float32", shape=(2,))
    signature = Signature(graph="a.onnx", inputs=(x,), outputs=(replace(x, name="y"),))
    with pytest.raises(ValueError, match=r"calibration of 'x' must be an array of rows, got"):
        calibration_inputs("s", signature, recorded({"x": np.array(1.0, np.float32)}), 4)
