"""`aigc doctor`: hardware and packages of this machine, and what to install."""

import importlib.metadata
import os
import platform
import shutil
from importlib.util import find_spec
from pathlib import Path

import aigc
from aigc import __version__, own_code
from aigc.commands.extras import EXTRAS

CPU_WHEELS = "https://download.pytorch.org/whl/cpu"
"""PyTorch's index of builds without CUDA, a tenth of the size."""
_MAIN = ("train", "serve")
"""The command fails if both of these are incomplete."""


def command(argv: list[str]) -> int:
    """Show what this machine has, what is missing and what to install."""
    if argv:
        print("usage: aigc doctor")
        return 0 if argv[0] in ("-h", "--help") else 2
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0))
    print(f"aigc {__version__} in {Path(aigc.__file__).parent}")
    print(
        f"{platform.system()} {platform.machine()}, Python {platform.python_version()},"
        f" {cores} cores, {memory:.0f} GiB"
    )
    shm = shutil.disk_usage("/dev/shm").free / 2**30 if Path("/dev/shm").is_dir() else 0.0
    print(f"shared memory {shm:.1f} GiB free{'' if shm > 0.2 else ' - Ray wants more'}")
    missing = 0
    for extra, packages in EXTRAS.items():
        versions = {package: _version(package) for package in packages.values()}
        absent = [package for package, version in versions.items() if version is None]
        missing += bool(absent) and extra in _MAIN
        installed = ", ".join(f"{p} {v}" for p, v in versions.items() if v)
        print(f"{extra}: {installed or 'nothing'}")
        if absent:
            print(f"  missing {', '.join(absent)}: pip install 'aigc[{extra}]'{_index(absent)}")
    for kind in own_code.KINDS:
        for name, where in own_code.listed(kind):
            print(f"{kind.noun} of a package: {name}, from {where}")
    print(f"accelerators: {_accelerators()}")
    print(f"RAY_AUTH_MODE={os.environ.get('RAY_AUTH_MODE', 'unset: each run makes its own token')}")
    return 1 if missing == len(_MAIN) else 0


def _index(absent: list[str]) -> str:
    """Option of pip for torch without CUDA, for a machine without a GPU."""
    if "torch" not in absent or Path("/dev/nvidiactl").exists():
        return ""
    return f" --extra-index-url {CPU_WHEELS} (without a GPU)"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _accelerators() -> str:
    if find_spec("torch") is None:
        return "unknown without torch"
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ", ".join(names) or "none; CPU only"
