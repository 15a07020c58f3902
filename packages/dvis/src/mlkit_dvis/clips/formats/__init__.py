"""Annotation files of others, and the one that training reads: YouTube-VIS JSON."""
