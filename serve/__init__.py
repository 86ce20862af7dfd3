"""Sealed artifacts behind HTTP on Ray Serve. Imports aigc.artifact only; never torch.

`serve.cli` starts it on this machine, `serve.app:build` is the application for a Serve config.
"""
