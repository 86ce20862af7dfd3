"""Metrics of generated samples: functions of (real, generated, features) -> numbers."""
