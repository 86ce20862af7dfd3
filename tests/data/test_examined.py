"""Rows tried one by one: evenly chosen, and left when somebody interrupts."""

import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from aigc.data import CorruptRow
from aigc.data.examined import across, evenly, examine, spread


@dataclass(frozen=True)
class Rows:
    """Vectors of one number each; some rows raise."""

    values: NDArray[np.float32]
    raises: dict[int, BaseException] = field(default_factory=dict)
    read_rows: list[int] = field(default_factory=list)
    name: str = "rows"
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    def read(self, row: int) -> tuple[NDArray[np.float32], int]:
        self.read_rows.append(row)
        if row in self.raises:
            raise self.raises[row]
        return self.values[row : row + 1], 0

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        return np.arange(len(self))

    def fingerprint(self) -> dict[str, Any]:
        return {}


def test_examine_reads_every_row_once() -> None:
    rows = Rows(np.arange(1000, dtype=np.float32))
    found = examine(rows, np.arange(1000), "rows", whole=True)
    assert sorted(rows.read_rows) == list(range(1000))
    assert (found.tried, found.lowest, found.highest) == (1000, 0, 999)
    assert not found.repeated


def test_examine_finds_duplicates_within_and_across_splits() -> None:
    one = examine(Rows(np.array([1, 2, 1, 3], np.float32)), np.arange(4), "one", whole=True)
    other = examine(Rows(np.array([3, 4], np.float32)), np.arange(2), "other", whole=True)
    assert one.repeated == [("row 2", "row 0")]
    assert across(one, other) == [("row 0", "row 3")]


def test_examine_counts_corrupt_rows_and_keeps_first_reasons() -> None:
    broken: dict[int, BaseException] = {
        row: CorruptRow(f"row {row} is /cut off") for row in range(9)
    }
    found = examine(Rows(np.zeros(20, np.float32), broken), np.arange(20), "rows", whole=True)
    assert found.num_unreadable == 9
    assert found.unreadable == [f"row {row} is /cut off" for row in range(5)]
    assert (found.labels == np.where(np.arange(20) < 9, -1, 0)).all()


def test_interrupt_ends_examine_at_once() -> None:
    rows = Rows(np.zeros(50_000, np.float32), {0: KeyboardInterrupt()})
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        examine(rows, np.arange(50_000), "rows", whole=True)
    assert len(rows.read_rows) < 40_000
    assert threading.active_count() <= before


@pytest.mark.parametrize(("num_rows", "most"), [(10, 20), (10, 10), (1000, 7), (3, 1)])
def test_evenly_chooses_distinct_rows_over_the_whole_range(num_rows: int, most: int) -> None:
    rows = spread(num_rows, most)
    assert len(set(rows.tolist())) == min(num_rows, most)
    assert rows[0] == 0
    assert rows[-1] >= num_rows * (1 - 1 / len(rows)) - 1
    assert (evenly(np.arange(num_rows) * 2, most) == rows * 2).all()
