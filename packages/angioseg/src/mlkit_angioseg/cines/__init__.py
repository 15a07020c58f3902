"""Whole cines: the frame to look at, masks of every frame, measurements, an overlay."""
