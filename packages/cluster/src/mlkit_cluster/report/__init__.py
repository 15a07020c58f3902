"""A run as one HTML page for people: maps, pairs, clusters, findings."""

from __future__ import annotations

from mlkit_cluster.report.page import write_report
from mlkit_cluster.report.server import serve_report

__all__ = ["serve_report", "write_report"]
