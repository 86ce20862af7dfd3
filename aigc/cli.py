"""`aigc <command>`: commands are entry points, so only the one that runs is loaded."""

import ast
import os
import signal
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path

from aigc import __version__
from aigc.own_code.entry_point import missing, shadowed


def main() -> int:
    """Run the command named on the command line. Exit status 0 done, 1 failed, 2 usage."""
    commands = {point.name: point for point in entry_points(group="aigc.commands")}
    name, *argv = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        _help(commands)
        return 0
    if name in ("-V", "--version"):
        print(f"aigc {__version__}")
        return 0
    if name not in commands:
        print(
            f"aigc: unknown command {name!r}; there are: {', '.join(sorted(commands))}",
            file=sys.stderr,
        )
        return 2
    try:
        if reason := shadowed(commands[name].module):
            raise ValueError(reason)
        command = _load(commands[name])
        status: int = command(argv)
        return status
    except ImportError as error:
        reason = missing(error)
        if not reason:
            raise
        print(f"aigc {name}: {reason}", file=sys.stderr)
    except (ValueError, ArithmeticError, OSError) as error:
        print(f"aigc {name}: {_sentence(error)}", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"aigc {name}: interrupted", file=sys.stderr)
        return 130
    return 1


def _sentence(error: Exception) -> str:
    """Message of an error in one line, without errno."""
    message = str(error)
    if isinstance(error, OSError) and error.strerror and error.errno is not None:
        where = (
            f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        )
        message = f"{where}{error.strerror}"
    return " ".join(message.split()) or type(error).__name__


def _load(point: EntryPoint) -> Callable[[list[str]], int]:
    """Load a command. Ctrl-C ends the process at once while its modules load.

    Nothing needs cleaning up yet, and C extensions turn KeyboardInterrupt into other errors.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return point.load()  # type: ignore[no-any-return]
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    try:
        return point.load()  # type: ignore[no-any-return]
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _help(commands: dict[str, EntryPoint]) -> None:
    print("usage: aigc COMMAND ...\n\nTrain, seal, serve and sample generative models.\n")
    width = max(map(len, commands), default=0) + 2
    for name, point in commands.items():
        print(f"  {name:<{width}}{_summary(point)}")
    print("\n`aigc COMMAND --help` lists a command's options, `aigc --version` the version.")


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
