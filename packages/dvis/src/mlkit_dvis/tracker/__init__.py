"""The tracker: objects as queries that go from frame to frame."""

from mlkit_dvis.tracker.daq import DAQTracker
from mlkit_dvis.tracker.lifecycle import FrameRecord, TrackerState
from mlkit_dvis.tracker.tracks import OpenTracks, Track, group
from mlkit_dvis.tracker.truth import ClipTruth, FrameOutput, TrackerTraining, TrainOptions

__all__ = [
    "ClipTruth",
    "DAQTracker",
    "FrameOutput",
    "FrameRecord",
    "OpenTracks",
    "Track",
    "TrackerState",
    "TrackerTraining",
    "TrainOptions",
    "group",
]
