"""Searching images and video for the objects of a reference set."""
