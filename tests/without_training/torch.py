"""In place of torch, on a machine that only serves: whoever imports it is written down."""

import os
import sys
import traceback
from pathlib import Path

if log := os.environ.get("NO_TORCH_LOG"):
    with Path(log).open("a") as file:
        file.write(f"{sys.argv}\n{''.join(traceback.format_stack())}\n")
raise ModuleNotFoundError("No module named 'torch'", name="torch")
