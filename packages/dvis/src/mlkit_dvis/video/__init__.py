"""Videos in and out, by PyAV."""

from mlkit_core.report.video import VideoWriter
from mlkit_dvis.video.random_access import VideoFile
from mlkit_dvis.video.reading import Source, open_source, read_frames

__all__ = ["Source", "VideoFile", "VideoWriter", "open_source", "read_frames"]
