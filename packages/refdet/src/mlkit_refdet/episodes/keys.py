"""Names under which features of frames and photos are kept, and under which they are told apart."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from mlkit_core.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path


class FileKeys:
    """Makes keys of files; a file is looked at once."""

    def __init__(self) -> None:
        self._files: dict[Path, str] = {}

    def of(self, path: Path, *how: object) -> str:
        """Return a key of a file's place, size and time, and of all that shapes its pixels.

        Raises:
            DataError: The file is gone.
        """
        if path not in self._files:
            try:
                found = path.stat()
            except OSError as err:
                raise DataError(f"{path}: cannot be read: {err.strerror}") from err
            self._files[path] = f"{path.resolve()}|{found.st_size}|{found.st_mtime_ns}"
        return hashlib.sha256(f"{self._files[path]}|{how!r}".encode()).hexdigest()[:32]
