"""Encoders of query images and reference photos."""
