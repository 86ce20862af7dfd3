"""Mistakes in manifests that a cluster would accept in silence, found without a cluster."""
