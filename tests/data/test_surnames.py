"""Surnames of the package `names`: each in one split, most of them held out."""

import sys

import pytest

from aigc.artifact.vocabulary import Vocabulary
from aigc.config import DataConfig
from aigc.data.sources import surnames

CONFIG = DataConfig(source="surnames")


@pytest.mark.process
def test_splits_share_no_surname() -> None:
    pytest.importorskip("names")
    texts = []
    for split, count in (("train", 17_760), ("test", 71_039)):
        found = surnames.load(CONFIG, (14,), split)  # type: ignore[arg-type]
        assert len(found) == count
        assert found.classes == ()
        texts += Vocabulary(found.vocabulary).texts(found.samples)
    assert len(set(texts)) == len(texts) == 88_799
    assert {"smith", "aalderink"} <= set(texts)


def test_missing_names_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "names", None)
    with pytest.raises(ValueError, match=r"pip install 'aigc\[text\]'"):
        surnames.load(CONFIG, (14,), "train")
