"""`aigc <command>`: finds its commands through entry points, so it loads only what is asked for."""

import ast
import sys
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path

_EXTRAS = {
    **dict.fromkeys(("torch", "onnx", "onnxscript", "sklearn", "safetensors"), "train"),
    **dict.fromkeys(("filelock", "tqdm", "tensorboard"), "train"),
    **dict.fromkeys(("orjson", "swagger_ui_bundle", "yaml"), "serve"),
    **dict.fromkeys(("ray", "psutil"), "train,serve"),
    **dict.fromkeys(("s3fs", "botocore", "aiobotocore"), "s3"),
    "datasets": "hf",
}
"""Extra that brings a module."""


def main() -> int:
    """Run the command named on the command line. Exit status 0 done, 1 failed, 2 usage."""
    commands = {point.name: point for point in entry_points(group="aigc.commands")}
    name, *argv = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        _help(commands)
        return 0
    if name not in commands:
        print(
            f"aigc: unknown command {name!r}; there are: {', '.join(sorted(commands))}",
            file=sys.stderr,
        )
        return 2
    try:
        status: int = commands[name].load()(argv)
        return status
    except ImportError as error:
        # fsspec says which module a protocol needs in its message alone.
        words = [error.name or "", *str(error).split()]
        module = next((w for w in (w.partition(".")[0] for w in words) if w in _EXTRAS), None)
        if module is None:
            raise
        needed = f"needs {module}; pip install 'aigc[{_EXTRAS[module]}]'"
        print(f"aigc {name}: {needed}", file=sys.stderr)
    except (ValueError, ArithmeticError, OSError) as error:
        print(f"aigc {name}: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"aigc {name}: interrupted", file=sys.stderr)
        return 130
    return 1


def _help(commands: dict[str, EntryPoint]) -> None:
    print("usage: aigc COMMAND ...\n\nTrain, seal, serve and sample generative models.\n")
    for name, point in commands.items():
        print(f"  {name:<10}{_summary(point)}")
    print("\n`aigc COMMAND --help` lists a command's options.")


def _summary(point: EntryPoint) -> str:
    """First line of the command's docstring, read without importing its module."""
    spec = find_spec(point.module)
    if spec is None or spec.origin is None:
        return ""
    tree = ast.parse(Path(spec.origin).read_text())
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == point.attr:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    return ""


if __name__ == "__main__":
    raise SystemExit(main())
