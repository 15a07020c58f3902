"""Encoders of angioseg: the C-arm view, and a stem that keeps the full resolution."""
