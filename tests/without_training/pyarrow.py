"""In place of pyarrow, which Ray imports where it is, at a cost in each of its processes."""

raise ModuleNotFoundError("No module named 'pyarrow'", name="pyarrow")
