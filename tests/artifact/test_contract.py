"""What a manifest alone says of optional inputs: what is missing is marked so, row by row."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aigc.artifact import Signature, TensorSpec
from aigc.artifact.contract import Contract, absent, setting
from aigc.artifact.session import read_manifest


def optional(name: str, shape: tuple[int, ...]) -> tuple[TensorSpec, TensorSpec]:
    flag = f"{name}_given"
    return (
        TensorSpec(name=name, kind="vector", dtype="float32", shape=shape, presence=flag),
        TensorSpec(name=flag, kind="presence", dtype="float32", shape=(), range=(0, 1)),
    )


@pytest.fixture(scope="module")
def contract(sealed: Path) -> Contract:
    latent = TensorSpec(name="latent", kind="latent", dtype="float32", shape=(4,))
    signature = Signature(
        graph="generator.onnx",
        inputs=(*optional("a", (2,)), *optional("b", (3,)), latent),
        outputs=(TensorSpec(name="new_a", kind="vector", dtype="float32", shape=(2,)),),
    )
    manifest = read_manifest(str(sealed))
    return Contract(replace(manifest, signatures={**manifest.signatures, "translate": signature}))


def test_what_is_not_given_is_zeros_and_marked_so(contract: Contract) -> None:
    given = np.ones((3, 2), np.float32)
    inputs = contract.draw("translate", 7, range(3), given={"a": given})
    assert list(inputs) == ["a", "a_given", "b", "b_given", "latent"]
    assert inputs["a"] is given
    assert inputs["a_given"].tolist() == [1, 1, 1]
    assert inputs["b"].tolist() == [[0, 0, 0]] * 3
    assert inputs["b_given"].tolist() == [0, 0, 0]
    again = contract.draw("translate", 7, [2], given={"b": np.ones((1, 3), np.float32)})
    assert (again["latent"] == inputs["latent"][2]).all()


def test_flags_that_are_given_stay_what_they_are(contract: Contract) -> None:
    signature = contract.signature("translate")
    found = absent(signature, ("a", "a_given", "b"), 2)
    assert {name: value.tolist() for name, value in found.items()} == {"b_given": [1, 1]}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.draw("translate", 0, [0]), "needs at least one of a, b"),
        (
            lambda c: c.draw("translate", 0, [0], given={"c": np.zeros((1, 2))}),
            "takes no 'c', it takes: a, b",
        ),
        (
            lambda c: c.draw("translate", 0, [0, 1], given={"a": np.zeros((1, 2))}),
            r"a must have shape \(2, 2\), got \(1, 2\)",
        ),
        (
            lambda c: c.draw("sample", 0, [0], given={"a": np.zeros((1, 2))}),
            "takes no 'a', it takes: nothing",
        ),
    ],
)
def test_what_cannot_be_given_is_refused(
    contract: Contract, call: Callable[[Contract], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        call(contract)


@pytest.mark.parametrize("value", [2.5, [2, 2.5], float("nan")])
def test_a_whole_setting_is_not_cut_to_one(value: float | list[float]) -> None:
    spec = TensorSpec(
        name="top_k", kind="setting", dtype="int64", shape=(), range=(0, 9), default=0
    )
    assert setting(spec, 2.0, 2).tolist() == [2, 2]
    with pytest.raises(ValueError, match="top_k must be"):
        setting(spec, value, 2)
