"""Kubernetes: the manifests that run training and serving, and `aigc k8s check`, which reads any.

Nobody imports this package. What it needs of serve it imports when a rule asks for it, so that the
check runs where Ray is not installed.
"""
