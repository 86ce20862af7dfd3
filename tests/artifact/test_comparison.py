"""Comparison of runs whose outputs are codes: few may differ, and what follows from them."""

from dataclasses import replace

import numpy as np
import pytest

from aigc.artifact import Signature, TensorSpec
from aigc.artifact.comparison import compare
from aigc.artifact.manifest import Parity
from aigc.artifact.sampling_inputs import Arrays
from aigc.sealing.parity import prove_parity

IMAGE = TensorSpec(name="image", kind="image", dtype="float32", shape=(1, 4, 4), range=(-1, 1))
TOKENS = TensorSpec(name="tokens", kind="vector", dtype="int64", shape=(4, 4), range=(0, 7))
SIGNATURE = Signature(graph="it.onnx", inputs=(IMAGE,), outputs=(IMAGE, TOKENS))


def outputs(n: int = 256) -> Arrays:
    random = np.random.default_rng(0)
    image = random.uniform(-1, 1, (n, 1, 4, 4)).astype(np.float32)
    return {"image": image, "tokens": random.integers(0, 8, (n, 4, 4))}


def differing(rows: int) -> Arrays:
    """Outputs of which the first rows have one other code, and another picture for it."""
    found = outputs()
    found["tokens"][:rows, 0, 0] = (found["tokens"][:rows, 0, 0] + 1) % 8
    found["image"][:rows] *= -1
    return found


def test_equal_codes_are_equal_to_the_bit() -> None:
    assert compare(SIGNATURE, outputs(), outputs()).level == "bit"


def test_few_other_codes_leave_the_rest_to_compare() -> None:
    found = compare(SIGNATURE, outputs(), differing(4))
    assert (found.level, found.max_abs) == ("tolerance", 0.0)
    others = differing(4)
    others["image"][10] += 0.5
    assert compare(SIGNATURE, outputs(), others).max_abs > 0.1


def test_many_other_codes_are_no_reproduction() -> None:
    assert compare(SIGNATURE, outputs(), differing(5)).max_abs == float("inf")


def test_pictures_that_nothing_vouches_for_are_no_reproduction() -> None:
    """One other code in every sample is a small share, but leaves no picture to compare."""
    wide = replace(TOKENS, shape=(64, 64))
    signature = replace(SIGNATURE, outputs=(IMAGE, wide))
    a = {"image": outputs(2)["image"], "tokens": np.zeros((2, 64, 64), np.int64)}
    b = {"image": -a["image"], "tokens": a["tokens"].copy()}
    b["tokens"][:, 0, 0] = 1
    assert compare(signature, a, b).max_abs == float("inf")
    codes = replace(SIGNATURE, outputs=(wide,))
    assert compare(codes, a, b).max_abs == 0.0
    with pytest.raises(ValueError, match="not exported faithfully: 1 of its codes differ"):
        prove_parity("reconstruct", signature, lambda feeds: b, a, a)


def test_one_other_code_among_few_is_a_tie() -> None:
    a = {name: value[:1] for name, value in outputs().items()}
    b = {name: value[:1] for name, value in differing(1).items()}
    assert compare(SIGNATURE, a, b).max_abs == 0.0


def test_parity_states_the_share_of_other_codes_and_bounds_it() -> None:
    given = {"image": outputs()["image"]}

    def run(rows: int) -> Parity:
        made = differing(rows)
        by_input = {row.tobytes(): i for i, row in enumerate(given["image"])}

        def once(feeds: Arrays) -> Arrays:
            at = [by_input[row.tobytes()] for row in feeds["image"]]
            return {name: value[at] for name, value in made.items()}

        return prove_parity("reconstruct", SIGNATURE, once, given, outputs())

    assert run(4).uint8_mismatch == pytest.approx(4 / 4096)
    with pytest.raises(ValueError, match=r"not exported faithfully: 0\.0012 of its codes differ"):
        run(5)
