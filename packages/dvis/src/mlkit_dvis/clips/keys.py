"""Names under which a frozen encoder's features of a frame are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlkit_dvis.clips.sizes import padded

if TYPE_CHECKING:
    from pathlib import Path

    from mlkit_core.types import Needs
    from mlkit_dvis.clips.sizes import Size


class FrameKeys:
    """Makes keys; a file is looked at once."""

    def __init__(self) -> None:
        self._files: dict[Path, str] = {}

    def key(self, path: Path, frame: int, size: Size, needs: Needs) -> str:
        """Return what a frame's features depend on, beside the encoder.

        Args:
            path: The image, or the video file; its size and time belong to the key.
            frame: Number within the video.
            size: What it is resized to.
            needs: Give its padding.
        """
        if path not in self._files:
            found = path.stat()
            self._files[path] = f"{path.resolve()}|{found.st_size}|{found.st_mtime_ns}"
        height, width = padded([size], needs)
        return f"{self._files[path]}|{frame}|{size[0]}x{size[1]}|{height}x{width}"
