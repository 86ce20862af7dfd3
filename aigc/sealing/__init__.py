"""Sealing of models as artifacts: ONNX export, parity, reproducibility and reference samples."""
