"""When a phase is due, and at which learning rate."""

from dataclasses import replace

import pytest
from torch import nn

from aigc.config import OptimizerConfig
from aigc.model import Phase


def phase(**changes: int) -> Phase:
    options = OptimizerConfig(learning_rate=0.5)
    return Phase(name="only", module=nn.Linear(1, 1), optimizer=options, **changes)


def test_phase_is_due_every_nth_batch_until_its_end() -> None:
    always, third, ends = phase(), phase(every=3), phase(until=40)
    assert [always.due(n, 10 * n) for n in range(6)] == [True] * 6
    assert [third.due(n, 10 * n) for n in range(6)] == [False, False, True] * 2
    assert [ends.due(n, 10 * n) for n in range(6)] == [True] * 4 + [False] * 2


def test_phase_is_not_called_as_the_measured_quality_is() -> None:
    with pytest.raises(ValueError, match=r"must not be called 'quality'.*give it another name"):
        replace(phase(), name="quality")


def test_learning_rate_falls_to_zero_at_the_end() -> None:
    constant, falls = phase(until=40), phase(until=40, decay=20)
    assert [constant.rate_left(n) for n in (0, 30, 50)] == [1] * 3
    found = [falls.rate_left(n) for n in (0, 20, 25, 30, 39, 40, 50)]
    assert found == pytest.approx([1, 1, 0.75, 0.5, 0.05, 0, 0])
