"""Distances combined, clusters, projections, evaluation and findings, on plain arrays."""
