"""Kinds of data, one file each with `load(config, shape, split) -> Source`, named as the kind."""
