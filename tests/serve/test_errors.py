"""The catalog of errors is complete, and the exception holds to it."""

from typing import get_args

import pytest

from serve.errors import CATALOG, Code, HTTPError, Unsent, describe


def test_every_code_that_a_client_receives_is_in_the_catalog_once() -> None:
    listed = [code for status in CATALOG.values() for code in status.codes]
    assert len(listed) == len(set(listed)) > 50
    published = {code for one in get_args(Code) for code in get_args(one) or (one,)}
    assert published == {*listed, *get_args(Unsent)}


@pytest.mark.parametrize("status", CATALOG)
def test_the_document_names_every_code_of_a_status(status: int) -> None:
    assert all(code in describe(status) for code in CATALOG[status].codes)


def test_rejects_a_code_of_another_status() -> None:
    with pytest.raises(AssertionError):
        HTTPError(400, "unknown_model", "no such model")
    with pytest.raises(AssertionError):
        HTTPError(400, "no_code", "no such code")  # type: ignore[arg-type]
