"""How ultralytics is imported: offline, silent, and without changing anything for others."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator

_SETTINGS = {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_VERBOSE": "false"}


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep an import of ultralytics off the network and its patches out of other libraries.

    It changes how arrays are printed, tensors saved and images opened: a file that is no image
    would make it look for a package to install.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    opened, saved = Image.open, torch.save
    with np.printoptions():
        yield
    Image.open, torch.save = opened, saved
    torch.set_printoptions(profile="default")
