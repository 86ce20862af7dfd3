"""Sampling parameters: parts of a request name the same samples as the whole."""

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.sampling_params import PER_SAMPLE, SamplingParams


@st.composite
def sampling_params(draw: st.DrawFn) -> SamplingParams:
    n = draw(st.integers(1, 9))
    per_sample = st.lists(st.integers(0, 9), min_size=n, max_size=n)
    return SamplingParams(
        n=n,
        seed=draw(st.integers(0, 3)),
        first_index=draw(st.integers(0, 40)),
        label=draw(st.none() | st.integers(0, 9) | per_sample),
        settings=draw(st.fixed_dictionaries({}, optional={"gain": st.just(2.0) | per_sample})),
        prefix=draw(st.none() | per_sample.map(lambda rows: np.array(rows)[:, None])),
        stopping_criterion=draw(st.none() | st.just(len)),
    )


def samples(params: SamplingParams) -> list[tuple[Any, ...]]:
    """Every sample by all that it depends on."""
    prefix = [None] * params.n if params.prefix is None else params.prefix.tolist()
    return [
        (params.seed, index, label, gain, begins, params.stopping_criterion)
        for index, label, gain, begins in zip(
            params.indices, params.labels(), params.setting("gain", 1.0), prefix, strict=True
        )
    ]


@given(params=sampling_params(), size=st.integers(1, 10))
def test_split_keeps_every_sample_in_order(params: SamplingParams, size: int) -> None:
    parts = [*params.split(size)]
    assert [part.n for part in parts[:-1]] == [size] * (len(parts) - 1)
    assert [one for part in parts for one in samples(part)] == samples(params)


@given(params=sampling_params(), data=st.data())
def test_rows_are_those_samples_of_the_whole(params: SamplingParams, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, params.n - 1))
    stop = data.draw(st.integers(start + 1, params.n))
    assert samples(params.rows(start, stop)) == samples(params)[start:stop]
    assert params.rows(0, params.n) is params, "the whole is not copied"


def test_fields_of_one_value_per_sample_are_named() -> None:
    """A further parameter that may differ between samples belongs into PER_SAMPLE."""
    one_for_all = {"n", "seed", "first_index", "sizes", "stopping_criterion"}
    assert {one.name for one in fields(SamplingParams)} == one_for_all | {*PER_SAMPLE}


def test_params_are_frozen() -> None:
    with pytest.raises(AttributeError):
        SamplingParams().n = 2  # type: ignore[misc]
