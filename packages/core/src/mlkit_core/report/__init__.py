"""What shows a run to a person: description, pictures, prediction files, one HTML page."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlkit_core.report.page import write_report

__all__ = ["write_report"]


def __getattr__(name: str) -> object:
    """Import the page only when it is asked for: the TensorBoard plugin lists without it."""
    if name == "write_report":
        from mlkit_core.report.page import write_report

        return write_report
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
