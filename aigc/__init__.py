"""Generative models from data to endpoint: models, training loop, export, evaluation."""

__version__ = "0.1.0"
