"""Classes by name or number; what may mean two is refused, and can be said."""

import re

import pytest

from aigc.artifact.class_names import class_index

ANIMALS = ("dog", "cat", "Cat", "eel")
SHIFTED = ("1", "2", "0", "name:dog")
"""Names that are the numbers of others."""


@pytest.mark.parametrize(
    ("text", "classes", "index"),
    [
        ("cat", ANIMALS, 1),
        ("Cat", ANIMALS, 2),
        ("EEL", ANIMALS, 3),
        ("3", ANIMALS, 3),
        ("index:0", ANIMALS, 0),
        ("name:eel", ANIMALS, 3),
        ("name:1", SHIFTED, 0),
        ("index:1", SHIFTED, 1),
        ("3", SHIFTED, 3),
        ("name:dog", SHIFTED, 3),
        ("7", ("seven", "eight", *"abcdef"), 7),
        ("2", ("0", "1", "2"), 2),
        ("1", (), 1),
    ],
)
def test_text_names_a_class(text: str, classes: tuple[str, ...], index: int) -> None:
    assert class_index(text, classes, len(classes) or 10) == index


@pytest.mark.parametrize(
    ("text", "classes", "said"),
    [
        ("1", SHIFTED, "label '1' may mean several classes; say index:0 ('1') or index:1 ('2')"),
        ("CAT", ANIMALS, "may mean several classes; say index:1 ('cat') or index:2 ('Cat')"),
        ("egl", ANIMALS, "got 'egl'; did you mean 'eel'? there are dog, cat, Cat, eel"),
        ("4", ANIMALS, "label must be in [0, 4), got 4"),
        ("index:4", ANIMALS, r"label must be in [0, 4), got 'index:4'"),
        ("-1", ANIMALS, "got '-1'"),
        ("²", ANIMALS, "got '²'"),
        ("cat", (), "label must be a number, as the classes have no names, got 'cat'"),
        ("x" * 1000, ANIMALS, f"got {'x' * 60!r}"),
    ],
)
def test_text_that_names_no_single_class_is_refused(
    text: str, classes: tuple[str, ...], said: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        class_index(text, classes, len(classes) or 10)
    assert len(str(error.value)) < 300
