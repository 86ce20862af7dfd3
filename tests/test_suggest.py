"""Hints at the name that was meant."""

from aigc.suggest import alternatives, did_you_mean

NAMES = ["dcgan", "fc_gan", "Conv"]


def test_did_you_mean_names_the_closest() -> None:
    assert did_you_mean("dcgna", NAMES) == "; did you mean 'dcgan'?"
    assert did_you_mean("wholly other", NAMES) == ""
    assert did_you_mean(7, NAMES) == ""
    assert did_you_mean("fcgan", NAMES, most=2) == "; did you mean 'fc_gan' or 'dcgan'?"


def test_did_you_mean_may_ignore_case() -> None:
    assert did_you_mean("CONV", NAMES) == ""
    assert did_you_mean("CONV", NAMES, ignore_case=True) == "; did you mean 'Conv'?"


def test_alternatives_list_all_names_if_none_is_close() -> None:
    assert alternatives("dcgna", NAMES) == "; did you mean 'dcgan'?"
    assert alternatives("x", NAMES) == "; there are: dcgan, fc_gan, Conv"
