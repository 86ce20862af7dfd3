"""ArtifactSpec: optional inputs and their flags, labels, settings, and errors."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aigc.artifact import Signature, TensorSpec
from aigc.artifact.folder import read_manifest
from aigc.artifact.sampling_inputs import ArtifactSpec, _complete, optional_inputs, setting


def optional(name: str, shape: tuple[int, ...]) -> tuple[TensorSpec, TensorSpec]:
    flag = f"{name}_given"
    return (
        TensorSpec(name=name, kind="vector", dtype="float32", shape=shape, presence=flag),
        TensorSpec(name=flag, kind="presence", dtype="float32", shape=(), range=(0, 1)),
    )


@pytest.fixture(scope="module")
def contract(sealed: Path) -> ArtifactSpec:
    latent = TensorSpec(name="latent", kind="latent", dtype="float32", shape=(4,))
    signature = Signature(
        graph="generator.onnx",
        inputs=(*optional("a", (2,)), *optional("b", (3,)), latent),
        outputs=(TensorSpec(name="new_a", kind="vector", dtype="float32", shape=(2,)),),
    )
    manifest = read_manifest(str(sealed))
    return ArtifactSpec(
        replace(manifest, signatures={**manifest.signatures, "translate": signature})
    )


def test_missing_inputs_are_zeros_with_presence_0(contract: ArtifactSpec) -> None:
    given = np.ones((3, 2), np.float32)
    inputs = contract.draw("translate", 7, range(3), given={"a": given})
    assert list(inputs) == ["a", "a_given", "b", "b_given", "latent"]
    assert inputs["a"] is given
    assert inputs["a_given"].tolist() == [1, 1, 1]
    assert inputs["b"].tolist() == [[0, 0, 0]] * 3
    assert inputs["b_given"].tolist() == [0, 0, 0]
    again = contract.draw("translate", 7, [2], given={"b": np.ones((1, 3), np.float32)})
    assert (again["latent"] == inputs["latent"][2]).all()


def test_given_presence_flags_are_kept(contract: ArtifactSpec) -> None:
    signature = contract.signature("translate")
    found = optional_inputs(signature, ("a", "a_given", "b"), 2)
    assert {name: value.tolist() for name, value in found.items()} == {"b_given": [1, 1]}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.draw("translate", 0, [0]), "needs at least one of a, b"),
        (
            lambda c: c.draw("translate", 0, [0], given={"c": np.zeros((1, 2))}),
            "takes no input 'c', it takes: a, b",
        ),
        (
            lambda c: c.draw("translate", 0, [0, 1], given={"a": np.zeros((1, 2))}),
            r"a must have shape \(2, 2\), got \(1, 2\)",
        ),
        (
            lambda c: c.draw("sample", 0, [0], given={"a": np.zeros((1, 2))}),
            "takes no input 'a', it takes: none",
        ),
        (lambda c: c.draw("sample", 0.5, [0]), "seed must be a whole number, got 0.5"),
        (lambda c: c.draw("sample", 0, [0], "cat"), "label must be a whole number, got 'c'"),
        (lambda c: c.draw("sample", 0, [0], np.array(2.5)), "label must be a whole number"),
        (lambda c: c.draw_between("sample", 0, 1, 2.5), "frames must be a whole number, got 2.5"),
        (lambda c: c.draw("sample", 0, [0], np.int64(10)), r"label must be in \[0, 10\), got 10"),
    ],
)
def test_draw_refuses_unknown_inputs_and_other_types(
    contract: ArtifactSpec, call: Callable[[ArtifactSpec], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        call(contract)


@pytest.mark.parametrize("number", [np.int64, np.uint8, np.float64, np.array])
def test_numpy_numbers_are_accepted(contract: ArtifactSpec, number: Any) -> None:
    two, three = number(2), number(3)
    expected = contract.draw("sample", 2, [3], 2)
    found = contract.draw("sample", two, [three], two)
    frames = contract.draw_between("sample", two, three, two, index=three, label=two, to_label=two)
    for name, value in expected.items():
        assert np.array_equal(found[name], value)
        assert np.array_equal(frames[name][:1], value)
    several = contract.draw("sample", np.array([2, 2]), range(2), np.array([1, 2]))
    assert several["label"].tolist() == [1, 2]
    spec = TensorSpec(name="t", kind="setting", dtype="float32", shape=(), range=(0, 9), default=0)
    assert setting(spec, two, 2).tolist() == setting(spec, np.array([2, 2]), 2).tolist() == [2, 2]


@pytest.mark.parametrize(
    ("dtype", "value", "message"),
    [
        *(("float32", v, r"t must be a number in \[0, 9\], got") for v in (None, "warm", [1, "2"])),
        *(("int64", v, "t must be") for v in (2.5, [2, 2.5], float("nan"))),
    ],
)
def test_setting_of_another_type_is_refused(dtype: Any, value: Any, message: str) -> None:
    spec = TensorSpec(name="t", kind="setting", dtype=dtype, shape=(), range=(0, 9), default=0)
    assert setting(spec, 2.0, 2).tolist() == [2, 2]
    with pytest.raises(ValueError, match=message):
        setting(spec, value, 2)


def test_latents_of_one_signature_are_distinct(contract: ArtifactSpec) -> None:
    """The first is drawn as ever, a second one of equal shape by its name."""
    first = contract.signature("sample").inputs[0]
    two = replace(contract.signature("sample"), inputs=(first, replace(first, name="more")))
    manifest = replace(contract.manifest, signatures={"sample": two})
    drawn = ArtifactSpec(manifest).draw("sample", 7, range(3))
    alone = contract.draw("sample", 7, range(3))
    assert np.array_equal(drawn[first.name], alone[first.name])
    assert not np.isclose(drawn["more"], drawn[first.name]).any()


@pytest.mark.parametrize("value", [1.5, float("nan")])
def test_fractions_are_no_codes(value: float) -> None:
    """As whole numbers they would be other codes."""
    tokens = TensorSpec(name="tokens", kind="vector", dtype="int64", shape=(2, 2), range=(0, 7))
    signature = Signature(graph="g", inputs=(tokens,), outputs=(tokens,))
    given = np.full((1, 2, 2), 3.0)
    assert _complete(signature, {"tokens": given})["tokens"].dtype == np.int64
    given[0, 1, 0] = value
    with pytest.raises(ValueError, match="tokens must be"):
        _complete(signature, {"tokens": given})
