"""Per-frame tensors in a file, written once in order and read by frame.

Plain reads and writes, no memory map: mapped pages count as the process's memory.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mlkit_core.errors import MlkitError

if TYPE_CHECKING:
    from types import TracebackType

_NUMPY = {torch.float32: np.float32, torch.float16: np.float16, torch.float64: np.float64}


class SpillError(MlkitError):
    """The disk does not take, or no longer holds, what was put aside."""


class FrameFile:
    """Tensors `[n, *shape]`, one for each frame, n free; on the disk from the first byte on.

    Args:
        path: Of the file; it is unbuffered and private to one video.
        dtype: What values are kept as; None: as they come. float16 halves the disk's share.
    """

    def __init__(self, path: Path, dtype: torch.dtype | None = None) -> None:
        self._file: IO[bytes] = path.open("w+b", buffering=0)
        self._path, self._wanted = path, dtype
        self._dtype: torch.dtype = dtype or torch.float32
        self._shape: tuple[int, ...] = ()
        self._ends: list[int] = [0]  # rows before each frame

    def __len__(self) -> int:
        return len(self._ends) - 1

    def append(self, values: Tensor) -> None:
        """Add the next frame's `[n, *shape]`.

        Raises:
            SpillError: The disk is full.
        """
        if len(self._ends) == 1:
            self._shape, self._dtype = tuple(values.shape[1:]), self._wanted or values.dtype
        rows = values.detach().to("cpu", self._dtype).contiguous().numpy()
        view = memoryview(rows.reshape(-1).view(np.uint8))
        try:
            self._file.seek(0, os.SEEK_END)  # reading may have moved it
            while view.nbytes:
                view = view[self._file.write(view) :]
        except OSError as err:
            raise SpillError(
                f"{self._path}: cannot be written: {err}",
                hint="free some space, name another folder with --spill, or --masks recompute",
            ) from err
        self._ends.append(self._ends[-1] + len(rows))

    def read(self, frame: int) -> Tensor:
        """Return one frame's `[n, *shape]`, on the CPU."""
        return self._rows(self._ends[frame], self._ends[frame + 1])

    def read_range(self, start: int, stop: int) -> Tensor:
        """Return frames `start` up to `stop` as `[t, n, *shape]`; all must hold equally many."""
        rows = self._rows(self._ends[start], self._ends[stop])
        return rows.reshape(stop - start, -1, *self._shape)

    def _rows(self, start: int, stop: int) -> Tensor:
        kind = np.dtype(_NUMPY[self._dtype])
        width = int(np.prod(self._shape, dtype=np.int64))
        values = np.empty((stop - start) * width, kind)
        self._file.seek(start * width * kind.itemsize)
        view = memoryview(values.view(np.uint8))
        while view.nbytes:
            count = self._file.readinto(view)  # pyright: ignore[reportAttributeAccessIssue]  # FileIO
            if not count:
                raise SpillError(f"{self._path}: ends too early; was it changed?")
            view = view[count:]
        return torch.from_numpy(values).reshape(stop - start, *self._shape)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Spill:
    """A private folder of frame files, removed with everything in it.

    Args:
        folder: Where to make it; None: the system's place for temporary files.
    """

    def __init__(self, folder: Path | None = None) -> None:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self._folder = tempfile.TemporaryDirectory(prefix="mlkit-dvis-", dir=folder)
        self._files: dict[str, FrameFile] = {}

    def file(self, name: str, dtype: torch.dtype | None = None) -> FrameFile:
        """Return the file of a name, made on first use."""
        if name not in self._files:
            self._files[name] = FrameFile(Path(self._folder.name) / f"{name}.bin", dtype)
        return self._files[name]

    def __enter__(self) -> Spill:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close and remove all files."""
        for file in self._files.values():
            file.close()
        self._folder.cleanup()
