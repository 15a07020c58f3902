"""Detectors that learn nothing: template matching, and matching of frozen features."""
