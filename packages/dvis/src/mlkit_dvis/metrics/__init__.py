"""Scores of tracks over whole videos."""
