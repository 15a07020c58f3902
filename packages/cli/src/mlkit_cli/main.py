"""The command's outer border: what goes wrong inside ends here as one clear line."""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING

from mlkit_cli.output import emit, error, hint, listen, note
from mlkit_core.errors import ConfigError, MlkitError

if TYPE_CHECKING:
    from collections.abc import Sequence

FAILED = 1
USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    0: fine. 1: the run failed. 2: usage, run file or input. 3: `mlkit doctor` found a failure.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    args = [argument for argument in given if argument != "--debug"]
    try:
        code = _quick(args) if _is_quick(args) else _run(args)
        sys.stdout.flush()
    except SystemExit:
        raise
    except BaseException as err:  # the outer border: nothing may pass it as a traceback
        if len(args) != len(given):
            import traceback

            traceback.print_exc()
        return _explain(err, args)
    return code


def _is_quick(args: Sequence[str]) -> bool:
    """Return whether this needs no typer, whose import alone takes longer than the answer."""
    listing = args[:2] == ["plugins", "list"] and {*args[2:]} <= {"--json", "--timings"}
    return listing or args in ([], ["-h"], ["--help"])


def _quick(args: Sequence[str]) -> int:
    """Print the help or the list of plugins."""
    if args[:1] == ["plugins"]:
        from mlkit_cli.listing import print_plugins

        print_plugins(timings="--timings" in args, as_json="--json" in args)
        return 0
    from mlkit_cli.tree import help_text

    if args:
        emit(help_text())
        return 0
    note(help_text())
    return USAGE


def _run(args: list[str]) -> int:
    # Threads that spin while they wait make a busy machine several times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    gc.disable()  # imports make no garbage, and scanning for it takes a fifth of their time
    import typer

    from mlkit_cli.app import build

    listen()
    try:
        with build().make_context("mlkit", args) as context:
            context.command.invoke(context)  # its callback enables gc, once all is imported
    except typer.Exit as stop:
        return stop.exit_code
    finally:
        gc.enable()
    return 0


def _explain(err: BaseException, args: Sequence[str]) -> int:
    """Print what went wrong and return the exit code."""
    import typer

    if isinstance(err, MlkitError):
        return _explain_mlkit(err)
    if isinstance(err, typer.TyperException):
        return _explain_usage(err)
    if isinstance(err, (KeyboardInterrupt, typer.Abort)):
        return _explain_interrupt(args)
    if isinstance(err, BrokenPipeError):
        # The reader left, as in `mlkit schema | head -1`; the flush at exit would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    if isinstance(err, OSError):
        return _explain_system(err)
    if isinstance(err, ModuleNotFoundError):
        error(f"{err.name} is not installed")
        hint("training needs `pip install 'mlkit-core[torch]'`; `mlkit doctor` shows what is there")
        return FAILED
    error(f"{type(err).__name__}: {' '.join(str(err).split()) or 'no message'}")
    hint("this should not happen: the same command with --debug shows the traceback")
    return FAILED


def _explain_mlkit(err: MlkitError) -> int:
    for line in err.problems if isinstance(err, ConfigError) else [str(err)]:
        error(line)
    if err.hint:
        hint(err.hint)
    return err.exit_code


def _explain_usage(err: Exception) -> int:
    context = getattr(err, "ctx", None)
    said = str(getattr(err, "format_message", err.__str__)()).rstrip(".")
    if said.startswith("Usage:"):  # a group without a verb: the message is its whole help
        note(said)
        return USAGE
    error(said[:1].lower() + said[1:])
    if context is not None:
        hint(f"`{context.command_path} --help` shows what it takes")
    return getattr(err, "exit_code", FAILED)


def _explain_interrupt(args: Sequence[str]) -> int:
    line = "interrupted"
    if args and args[0] in ("train", "demo"):
        import shlex

        again = shlex.join([*args, *([] if "--resume" in args else ["--resume"])])
        line += f"; resume with `mlkit {again}`"
    note(line)
    return FAILED


def _explain_system(err: OSError) -> int:
    import errno

    said = (err.strerror or str(err)).lower()
    error(f"{err.filename}: {said}" if err.filename else said)
    if err.errno == errno.ENOSPC:
        hint("free some space; what was written before is whole, so a run goes on with --resume")
    return FAILED
