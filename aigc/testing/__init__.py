"""The contracts of models and data sources, to check your own against.

aigc.testing.check_model("./resgan.py")                    # raises, with every fault
@pytest.mark.parametrize("check", aigc.testing.checks("./resgan.py"))
def test_resgan_keeps_the_contract(check): check()

It needs torch, and no pytest. `aigc check-model ./resgan.py` is the same on the command line.
"""

from aigc.testing.accelerator import HostRead, MixedDevicesError, PretendedAccelerator
from aigc.testing.contract import Check, ContractError, Outcome
from aigc.testing.model_contract import check_model, checks
from aigc.testing.source_contract import check_source, source_checks

__all__ = [
    "Check",
    "ContractError",
    "HostRead",
    "MixedDevicesError",
    "Outcome",
    "PretendedAccelerator",
    "check_model",
    "check_source",
    "checks",
    "source_checks",
]
