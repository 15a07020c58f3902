"""Published checkpoints of DVIS-DAQ under our keys: read, renamed strictly, written as a run."""

from __future__ import annotations

from mlkit_dvis.convert.folder import convert_file
from mlkit_dvis.convert.layout import Converted, convert_segmenter, convert_state

__all__ = ["Converted", "convert_file", "convert_segmenter", "convert_state"]
