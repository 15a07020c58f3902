"""Whole videos through the model, in memory that does not grow with their length."""

from mlkit_dvis.pipeline.live import LiveFrame, LiveTrack, track_live
from mlkit_dvis.pipeline.loading import LoadedModel, load_tracker
from mlkit_dvis.pipeline.session import SessionOptions, VideoSession
from mlkit_dvis.pipeline.videos import track_video

__all__ = [
    "LiveFrame",
    "LiveTrack",
    "LoadedModel",
    "SessionOptions",
    "VideoSession",
    "load_tracker",
    "track_live",
    "track_video",
]
