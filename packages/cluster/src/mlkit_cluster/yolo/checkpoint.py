"""Reading checkpoints that are pickled models, without running what they ask for.

An ultralytics checkpoint is a pickle of the model object. It is read by torch's restricted
unpickler, to which the known module classes are shown under their names, but as stand-ins whose
constructors refuse: a genuine checkpoint restores objects by their state and calls none.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from mlkit_core.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Sequence

# What the unpickler raises on a damaged file, or on one that asks for more than it may.
_UNREADABLE = (
    pickle.UnpicklingError, EOFError, RuntimeError, zipfile.BadZipFile, LookupError, ValueError,
    TypeError, AttributeError, AssertionError, OSError,
)  # fmt: skip

# Values that training arguments and metrics may hold; none of them does anything when it is made.
_SCALAR = np.float64(0).__reduce__()[0]
_PLAIN: dict[str, Any] = {
    "numpy.dtype": np.dtype,
    "numpy._core.multiarray.scalar": _SCALAR,
    "numpy.core.multiarray.scalar": _SCALAR,
    **{f"numpy.dtypes.{type(np.dtype(c)).__name__}": type(np.dtype(c)) for c in "?bhilqefd"},
    "pathlib.PosixPath": PurePosixPath,
    "pathlib._local.PosixPath": PurePosixPath,
    "pathlib.WindowsPath": PureWindowsPath,
    "pathlib._local.WindowsPath": PureWindowsPath,
    "types.SimpleNamespace": SimpleNamespace,
}


class Forgotten:
    """Stands for an object that is not needed, such as the criterion of an unfinished training."""

    def __setstate__(self, state: object) -> None:
        """Drop the state."""


def read_checkpoint(path: Path, classes: Sequence[type], ignored: Sequence[str]) -> Any:  # noqa: ANN401  # plain values and a module
    """Return what a `torch.save` file holds: plain values, tensors and modules of known classes.

    Args:
        path: The file.
        classes: Module classes that it may hold; their constructors are not called.
        ignored: Full names (`package.module.Class`) of what is read as `Forgotten`.

    Raises:
        WeightsError: The file is missing, damaged, or names anything else.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file")
    known: dict[str, Any] = _PLAIN | {_name(one): one for one in classes}
    known |= dict.fromkeys(ignored, Forgotten)
    try:
        asked = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        refused = [name for name in asked if name not in known]
        if refused:
            raise _refusal(path, refused)
        wanted = {*asked, *(name for name in _PLAIN if name.startswith("numpy.dtypes."))}
        shown: list[Any] = [(_stand_in(known[name], path), name) for name in sorted(wanted)]
        with torch.serialization.safe_globals(shown):
            value = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as err:
        raise WeightsError(
            f"{path}: not a readable checkpoint: {_first_line(err)}",
            hint="give a .pt file that ultralytics 8.4 has saved",
        ) from err
    _restore_classes(value)
    return value


def _refusal(path: Path, refused: Sequence[str]) -> WeightsError:
    named = ", ".join(sorted(refused)[:3])
    more = f" and {len(refused) - 3} more" if len(refused) > 3 else ""
    return WeightsError(
        f"{path}: refers to {named}{more}, which is no part of a known detector",
        hint="such a file could run code, so it is not opened; save the model by ultralytics 8.4",
    )


def _name(known: type) -> str:
    return f"{known.__module__}.{known.__qualname__}"


def _first_line(err: Exception) -> str:
    """Return what is wrong, without torch's advice to read the file unsafely."""
    lines = [line.strip() for line in str(err).splitlines()]
    plain = [line for line in lines if line and "weights_only" not in line]
    return plain[0] if plain else type(err).__name__


def _stand_in(known: Any, path: Path) -> Any:  # noqa: ANN401  # a class, or numpy's function
    if not (isinstance(known, type) and issubclass(known, nn.Module)):
        return known

    def refuse(_: object, *args: object, **kwargs: object) -> None:
        raise WeightsError(
            f"{path}: asks to call {known.__name__}, which no genuine checkpoint does",
            hint="such a file could run code, so it is not opened",
        )

    return type(known.__name__, (known,), {"__init__": refuse, "stand_in_for": known})


def _restore_classes(value: object) -> None:
    if isinstance(value, Mapping):
        for item in value.values():
            _restore_classes(item)
    if isinstance(value, nn.Module):
        for module in value.modules():
            original = getattr(type(module), "stand_in_for", None)
            if original is not None:
                module.__class__ = original
