"""Videos in and out, by PyAV."""

from mlkit_dvis.video.random_access import VideoFile
from mlkit_dvis.video.reading import Source, open_source, read_frames
from mlkit_dvis.video.writing import VideoWriter

__all__ = ["Source", "VideoFile", "VideoWriter", "open_source", "read_frames"]
