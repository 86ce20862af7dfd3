"""The contract of a model (aigc/model.py) as named checks, for our models and those of users."""

from collections.abc import Collection

from aigc import models, own_code
from aigc.config import TrainConfig
from aigc.testing.contract import Check, Contract, checks_of, require_all
from aigc.testing.export_checks import (
    graphs_shared,
    outputs_as_promised,
    parity,
    rows_apart,
    seeds_kept,
    signatures,
    state_is_whole,
)
from aigc.testing.loss_checks import finite_losses, gradients, mean_over_rows, pure_losses
from aigc.testing.model_under_test import ModelUnderTest
from aigc.testing.preset_checks import builds, config_survives_json, phases, trains_on_its_data
from aigc.testing.sums_checks import sums_add_up
from aigc.testing.training_checks import accelerator, average, hooks, resumes

CONTRACT: Contract[ModelUnderTest] = {
    builds: (),
    config_survives_json: (),
    phases: (builds,),
    finite_losses: (phases,),
    gradients: (finite_losses,),
    pure_losses: (finite_losses,),
    sums_add_up: (pure_losses,),
    mean_over_rows: (gradients, sums_add_up),
    hooks: (finite_losses,),
    signatures: (builds,),
    outputs_as_promised: (signatures,),
    seeds_kept: (outputs_as_promised,),
    rows_apart: (seeds_kept,),
    graphs_shared: (seeds_kept,),
    state_is_whole: (seeds_kept,),
    average: (gradients, sums_add_up, hooks, seeds_kept),
    resumes: (gradients, sums_add_up, hooks),
    accelerator: (gradients, sums_add_up, hooks, seeds_kept),
    trains_on_its_data: (finite_losses,),
    parity: (rows_apart,),
}
"""Every check, each with those that must hold before it can say anything; quick ones first."""


def checks(
    model: str | TrainConfig, only: Collection[str] = (), name: str = ""
) -> list[Check[ModelUnderTest]]:
    """The checks of every preset that a reference means, as callables to parametrize a test over.

        @pytest.mark.parametrize("check", aigc.testing.checks("./resgan.py"))
        def test_resgan_keeps_the_contract(check):
            check()

    `model` is MODEL[:PRESET], as for `aigc train`, or a config, such as a preset made smaller;
    `only` are names of checks, and `name` is what the preset of a config should call itself.
    Raises ValueError for names that are unknown.
    """
    found = {name or model.preset: model} if isinstance(model, TrainConfig) else presets(model)
    return [
        check
        for known, config in found.items()
        for check in checks_of(ModelUnderTest(config, known), CONTRACT, only)
    ]


def check_model(model: str | TrainConfig, only: Collection[str] = ()) -> None:
    """Run the checks of checks(); raises ContractError, with all faults, unless all hold."""
    found = list(checks(model, only))
    name = model.preset if isinstance(model, TrainConfig) else model
    require_all([check.outcome() for check in found], name)


def presets(reference: str) -> dict[str, TrainConfig]:
    """The preset that a reference names, or all presets of the model, by MODEL:PRESET."""
    name, preset = own_code.split(reference)
    place = own_code.find(own_code.MODELS, name)
    names = [preset] if preset else list(models.load(name).PRESETS)
    return {f"{place.name}:{each}": models.preset(f"{name}:{each}") for each in names}
