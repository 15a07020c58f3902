"""`--devices N`: the same command again, once for each device, under torch's launcher."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mlkit_core.errors import MlkitError

if TYPE_CHECKING:
    from collections.abc import Sequence


def launcher_arguments(devices: int, arguments: Sequence[str]) -> list[str]:
    """Return what `python -m torch.distributed.run` takes to start the command on each device."""
    start = ["--standalone", "--nproc-per-node", str(devices)]
    return [*start, "-m", "mlkit_cli", *arguments]


def relaunch(devices: int, arguments: Sequence[str]) -> int:
    """Run the command on `devices` processes and return the first failure's exit code.

    Raises:
        MlkitError: torch is not installed.
        KeyboardInterrupt: The launcher was told to stop; the processes are gone.
    """
    try:
        from torch.distributed import run
        from torch.distributed.elastic.multiprocessing.api import SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    except ImportError as err:
        raise MlkitError("--devices needs torch", hint="pip install 'mlkit-core[torch]'") from err
    # Each process has said what went wrong; the launcher's own table would bury it.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        options = run.parse_args(launcher_arguments(devices, arguments))  # pyright: ignore[reportUnknownMemberType]  # torch's launcher is untyped
        run.run(options)  # pyright: ignore[reportUnknownMemberType]  # as above
    except ChildFailedError as err:
        _, failure = err.get_first_failure()
        return failure.exitcode if failure.exitcode > 0 else 1
    except SignalException as err:
        raise KeyboardInterrupt from err
    return 0
