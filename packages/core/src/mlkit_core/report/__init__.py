"""A run as one HTML file that needs no network."""

from __future__ import annotations

from mlkit_core.report.page import write_report

__all__ = ["write_report"]
