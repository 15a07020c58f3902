"""The temporal refiner: all tracks of a video, seen over all of its frames."""

from mlkit_dvis.refiner.chunks import chunk_ranges, refine_chunks, refined_chunks
from mlkit_dvis.refiner.offline import OfflineOutputs, offline_outputs
from mlkit_dvis.refiner.temporal import RefinerOutput, TemporalRefiner

__all__ = [
    "OfflineOutputs",
    "RefinerOutput",
    "TemporalRefiner",
    "chunk_ranges",
    "offline_outputs",
    "refine_chunks",
    "refined_chunks",
]
