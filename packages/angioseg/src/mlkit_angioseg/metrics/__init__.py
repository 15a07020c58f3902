"""Overlap, centreline and distance scores of vessel masks."""
