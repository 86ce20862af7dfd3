"""The contract of a data source (aigc.data.Source) as named checks."""

from collections.abc import Collection

from aigc.config import DataConfig, ModelConfig
from aigc.testing.contract import Check, Contract, checks_of, require_all
from aigc.testing.source_checks import (
    fingerprints,
    labels_fit,
    opens,
    order_is_a_permutation,
    reads_again,
    rows_fit,
    splits_apart,
    texts_end,
)
from aigc.testing.source_under_test import SourceUnderTest

CONTRACT: Contract[SourceUnderTest] = {
    opens: (),
    rows_fit: (opens,),
    labels_fit: (opens,),
    texts_end: (rows_fit,),
    order_is_a_permutation: (opens,),
    reads_again: (rows_fit,),
    fingerprints: (opens,),
    splits_apart: (reads_again,),
}
"""Every check, each with those that must hold before it can say anything."""


def source_checks(
    source: DataConfig, model: ModelConfig, only: Collection[str] = ()
) -> list[Check[SourceUnderTest]]:
    """The checks of a data source for models of that shape, as callables; see checks()."""
    return checks_of(SourceUnderTest(source, model), CONTRACT, only)


def check_source(source: DataConfig, model: ModelConfig, only: Collection[str] = ()) -> None:
    """Run the checks of a data source; raises ContractError, with all faults, unless all hold.

    check_source(DataConfig(source="./stars.py", path="/data"), ModelConfig(shape=(3, 64, 64)))
    """
    outcomes = [check.outcome() for check in source_checks(source, model, only)]
    require_all(outcomes, source.source)
