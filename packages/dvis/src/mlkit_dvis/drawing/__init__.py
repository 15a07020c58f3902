"""What people see of a tracked video: tracks.json, overlays, sheets, attention."""

from mlkit_dvis.drawing.attention import NOTE as ATTENTION_NOTE
from mlkit_dvis.drawing.footage import Footage
from mlkit_dvis.drawing.live import LiveRecord
from mlkit_dvis.drawing.outputs import check_folder, prepare_folder, write_outputs
from mlkit_dvis.drawing.overlay import Drawn, draw_objects
from mlkit_dvis.drawing.selection import (
    TrackRow,
    class_labels,
    key_frames,
    reported_tracks,
    track_rows,
)
from mlkit_dvis.drawing.sheet import ContactSheet
from mlkit_dvis.drawing.streams import Stream, is_stream, open_stream
from mlkit_dvis.drawing.summaries import summarise
from mlkit_dvis.drawing.tracked import DrawingOptions, TrackedVideo
from mlkit_dvis.drawing.tracks_file import write_record

__all__ = [
    "ATTENTION_NOTE",
    "ContactSheet",
    "DrawingOptions",
    "Drawn",
    "Footage",
    "LiveRecord",
    "Stream",
    "TrackRow",
    "TrackedVideo",
    "check_folder",
    "class_labels",
    "draw_objects",
    "is_stream",
    "key_frames",
    "open_stream",
    "prepare_folder",
    "reported_tracks",
    "summarise",
    "track_rows",
    "write_outputs",
    "write_record",
]
