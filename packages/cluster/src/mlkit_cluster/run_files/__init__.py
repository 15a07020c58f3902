"""The run file of `mlkit init cluster`."""

from __future__ import annotations

from importlib.resources import files


def text() -> str:
    """Return the run file for a folder of images, as YAML text."""
    return files("mlkit_cluster").joinpath("run_files/cluster.yaml").read_text(encoding="utf-8")
