"""What a conversion reads: an official checkpoint, and the names of its classes."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlkit_core.errors import InputError, WeightsError
from mlkit_core.weights import read_state_dict
from mlkit_dvis.categories import CATEGORIES

if TYPE_CHECKING:
    from torch import Tensor


def read_official(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint `{"model": {…}}`, by `weights_only=True`.

    Raises:
        WeightsError: The file is missing, corrupt, or needs code to be run, as detectron2's `.pkl`
            files of numpy arrays do.
    """
    try:
        with warnings.catch_warnings():  # what torch warns of here, it then refuses or reads
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return read_state_dict(path)
    except WeightsError as err:
        if path.suffix != ".pkl" or not path.is_file():
            raise
        raise WeightsError(
            f"{path}: a pickle of numpy arrays, which needs code to be run: refused",
            hint="where you trust it, save its arrays as torch tensors: "
            "torch.save({'model': {name: torch.as_tensor(array), …}}, 'model.pth')",
        ) from err


def class_names(choice: str | None, num_classes: int) -> tuple[str, ...]:
    """Return the names of a checkpoint's classes, in the order of its outputs.

    Args:
        choice: A known set, or a file: one name a line, or JSON with a list of names or with
            `categories` as in YouTube-VIS. None: the known set with so many classes.
        num_classes: Of the checkpoint.

    Raises:
        InputError: There is no such set or file, the number differs, or None fits several or none.
    """
    if choice is None:
        return CATEGORIES[_only_set(num_classes)]
    names = CATEGORIES[choice] if choice in CATEGORIES else _read_names(choice)
    if len(names) != num_classes:
        raise InputError(
            f"--classes {choice}: {len(names)} names, but the checkpoint has {num_classes} classes"
        )
    if len(set(names)) != len(names):
        raise InputError(f"--classes {choice}: a name is listed twice")
    return names


def _only_set(num_classes: int) -> str:
    fits = [name for name, names in CATEGORIES.items() if len(names) == num_classes]
    if len(fits) != 1:
        why = f"may be those of {' or '.join(fits)}" if fits else "are those of no known set"
        raise InputError(
            f"the checkpoint's {num_classes} classes {why}",
            hint=f"say --classes {' or '.join(fits) or 'FILE'}",
        )
    return fits[0]


def _read_names(choice: str) -> tuple[str, ...]:
    path = Path(choice)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        known = ", ".join(CATEGORIES)
        raise InputError(f"--classes {choice}: no known set ({known}) and no text file") from err
    if path.suffix != ".json":
        return tuple(line.strip() for line in text.splitlines() if line.strip())
    try:
        value = json.loads(text)
        listed = value if isinstance(value, list) else _by_id(value["categories"])
    except (ValueError, KeyError, TypeError) as err:
        wanted = "a list of names, or `categories` of ids and names"
        raise InputError(f"--classes {choice}: expected {wanted}") from err
    return tuple(str(name) for name in listed)


def _by_id(categories: list[dict[str, Any]]) -> list[str]:
    return [entry["name"] for entry in sorted(categories, key=lambda entry: entry["id"])]
