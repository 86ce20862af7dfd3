"""Every code that a client may meet is listed under its status."""

import re
from pathlib import Path

import serve
from serve.dialects.codes import ERRORS

WITHOUT_CODES = ("oip.py", "grpc.py", "tensors.py", "tensor_bytes.py")
"""The Open Inference Protocol has messages only."""


def test_every_code_is_listed_under_its_status() -> None:
    raised = {
        (int(status), code)
        for path in Path(serve.__file__).parent.rglob("*.py")
        if path.name not in WITHOUT_CODES
        for status, code in re.findall(
            r'HTTPError\(\s*(\d{3}),\s*"([a-z_]+)"', path.read_text("utf-8")
        )
    }
    assert len(raised) > 30
    missing = [
        (status, code)
        for status, code in sorted(raised)
        if code not in re.findall(r"[a-z_]+", ERRORS[status])
    ]
    assert missing == []
