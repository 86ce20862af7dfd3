"""Fields that a search is over: what is understood, what is refused, and what is drawn."""

from pathlib import Path

import pytest

from aigc import feature_network, models
from cluster.search_space import Dimension, changed, points, settled, without_effect
from tests import small_network

CONFIG = models.preset("dcgan:digits")
RATE = "model.generator_optimizer.learning_rate"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("batch=32,64,128", Dimension("batch", (32, 64, 128))),
        ("model.latent=int:8..64", Dimension("model.latent", (), 8, 64, False, True)),
        ("model.latent=8..64", Dimension("model.latent", (), 8, 64, False, True)),
        ("model.latent=log:8..64", Dimension("model.latent", (), 8, 64, True, True)),
        ("ema_warmup=0.01..0.1", Dimension("ema_warmup", (), 0.01, 0.1)),
        (f"{RATE}=log:1e-5..1e-2", Dimension(RATE, (), 1e-5, 1e-2, True)),
        (
            "model.generator-optimizer.name=adam, rmsprop",
            Dimension("model.generator_optimizer.name", ("adam", "rmsprop")),
        ),
        (f"{RATE}=1e-3,0:0 2k:1e-3", Dimension(RATE, (1e-3, "0:0 2k:1e-3"))),
        (
            "model.augmentation=flip translation,flip",
            Dimension("model.augmentation", (["flip", "translation"], ["flip"])),
        ),
    ],
)
def test_fields_and_their_values(text: str, expected: Dimension) -> None:
    assert Dimension.parse(text, CONFIG) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("batch", "must be FIELD=log:1e-5..1e-2"),
        ("bacth=32,64", "no such field; did you mean 'batch'"),
        ("generator_optimizer.learning_rate=1e-3", f"did you mean .*{RATE}"),
        ("model.nothing_like_it=3", "no such field; `aigc train dcgan:digits --help` lists them"),
        ("model.generator_optimizer=3", "it has fields of its own"),
        ("samples=100,200", "--samples is the budget of a trial"),
        ("patience=1,2", "the search ends trials itself"),
        ("threads=1,2", "--threads sets it for all trials"),
        ("keep-checkpoints=1,2", "keep one checkpoint"),
        ("data.path=a,b", "measured on the same data"),
        ("model.num_classes=0,10", "measured on the same data"),
        ("batch=32,32", "a value stands twice"),
        ("batch=32,many", "batch must be int, got str"),
        ("batch=0.5..8", "batch takes whole numbers"),
        ("batch=0..8", "batch must be > 1, got 0"),
        ("batch=8..2", "from a lower to a higher number"),
        ("batch=a..b", "from a number to a number"),
        (f"{RATE}=log:0..1", "a log range begins above 0"),
        (f"{RATE}=-1..1", "learning_rate must be > 0"),
        ("model.objective=hinge,hinje", "model.objective must be one of"),
    ],
)
def test_mistakes_are_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Dimension.parse(text, CONFIG)


def test_points_are_in_their_ranges_and_differ() -> None:
    texts = (
        "batch=32,64",
        "model.latent=log:8..64",
        f"{RATE}=log:1e-5..1e-2",
        "ema_warmup=.1.. .3",
    )
    space = [Dimension.parse(text, CONFIG) for text in texts]
    found = points(space, 200, seed=0)
    assert found == points(space, 200, seed=0) != points(space, 200, seed=1)
    assert found[0] == {}
    assert len({repr(point) for point in found}) == 200
    rates = [point[RATE] for point in found[1:]]
    assert 1e-5 <= min(rates) < 3e-5 < 3e-3 < max(rates) <= 1e-2
    assert 80 < sum(rate < 10**-3.5 for rate in rates) < 120  # uniform in the logarithm
    assert {type(point["model.latent"]) for point in found[1:]} == {int}
    assert {point["batch"] for point in found[1:]} == {32, 64}
    config = changed(CONFIG, found[1])
    assert config.batch == found[1]["batch"]
    assert config.model.generator_optimizer.learning_rate == found[1][RATE]  # type: ignore[attr-defined]


def test_small_space_has_as_many_points_as_it_has() -> None:
    space = [Dimension.parse("batch=32,128", CONFIG)]
    assert len(points(space, 16, seed=0)) == 3


def test_fields_that_do_nothing_at_any_point_are_named() -> None:
    """Not those that do something at one of them."""
    points = [{}, {"model.penalty_weight": 1.0, "batch": 32}, {"model.penalty_weight": 3.0}]
    said = ["--over model.penalty_weight has no effect: penalty is none"]
    assert [*without_effect(CONFIG, points)] == said
    points.append({"model.penalty_weight": 3.0, "model.penalty": "r1"})
    assert [*without_effect(CONFIG, points)] == []


def test_networks_searched_over_are_pinned(tmp_path: Path) -> None:
    """As `aigc train` pins them, so that a resumed search goes on with no other."""
    config, network = models.preset("upscaler:x2"), small_network.write(tmp_path)
    assert settled(config, {"batch": 8, "model.crop": 16}) == {"batch": 8, "model.crop": 16}
    found = settled(config, {"model.perceptual": network})
    assert found == {"model.perceptual": feature_network.pinned(network)}
    assert found["model.perceptual"] != network
    assert settled(config, found) == found
