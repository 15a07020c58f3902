"""Data sets as researchers have them become what `angio-frames` reads."""
