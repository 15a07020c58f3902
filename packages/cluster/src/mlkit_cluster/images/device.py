"""Which device a name means."""

from __future__ import annotations

import torch

from mlkit_core.errors import InputError


def torch_device(name: str) -> str:
    """Return torch's name of a device; "auto" is a GPU where there is one.

    Raises:
        InputError: There is no such device here.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as err:  # torch without CUDA asserts
        raise InputError(f"device: {name!r} cannot be used: {str(err).splitlines()[0]}") from err
    return name
