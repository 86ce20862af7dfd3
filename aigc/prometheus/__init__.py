"""Prometheus metrics of every process here: exporter, exact values, and reading them back."""
