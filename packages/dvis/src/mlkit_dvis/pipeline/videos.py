"""A video file, or a folder of frames, from a path to its tracks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mlkit_core.errors import DataError
from mlkit_core.tensors import to_device

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mlkit_core.types import Batch
    from mlkit_dvis.pipeline.loading import LoadedModel
    from mlkit_dvis.results import VideoResult


def track_video(
    loaded: LoadedModel,
    source: Path,
    *,
    stride: int = 1,
    on_window: Callable[[int, int | None], None] = lambda _done, _total: None,
    **options: Any,  # noqa: ANN401  # fields of SessionOptions
) -> VideoResult:
    """Return the tracks of a video, read window by window.

    Args:
        loaded: The model.
        source: Video file, folder of frames, or one image.
        stride: Every how many frames one is taken.
        on_window: Told how many frames are done, and of how many (None where it is not known).
        options: Fields of `SessionOptions` in the place of the head's own: `mode`, `max_tracks`,
            `attention`, `spill`, `masks`, `chunk`, `overlap`.

    Raises:
        InputError: The video cannot be read, or holds no frame.
    """
    session = None
    try:
        for batch in windows(loaded, source, stride):
            if session is None:
                session = loaded.head.session(loaded.parts, batch, **options)
            session.add(batch)
            total = batch.meta[0].extra.get("num_frames")
            on_window(session.frames, int(total) if total else None)
        if session is None:
            raise DataError(f"{source}: holds no frame")
        return session.finish(lambda: windows(loaded, source, stride))
    except BaseException:
        if session is not None:
            session.close()
        raise


def windows(loaded: LoadedModel, source: Path, stride: int = 1) -> Iterator[Batch]:
    """Yield the windows of a video, on the model's device."""
    role = loaded.parts.model.reads[loaded.parts.frames]
    for batch in loaded.data.open({role: source}, stride=stride):  # pyright: ignore[reportCallIssue]  # VideoClips takes a stride
        moved = to_device(batch, loaded.device)
        yield replace(moved, target=None)
