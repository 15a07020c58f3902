"""Losses of the segmenter, the tracker and the refiner."""
