"""onnxruntime without telemetry; import it only from here: `from aigc.artifact.runtime import ort`.

onnxruntime reads ORT_DISABLE_TELEMETRY when it is imported. Unless it is 1, every process that
opens a session connects to mobile.events.data.microsoft.com and keeps a database below the user's
cache folder. ORT_DISABLE_TELEMETRY=0 in the environment allows that.
"""

import os

if not os.environ.get("ORT_DISABLE_TELEMETRY"):
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime as ort

__all__ = ["ort"]
