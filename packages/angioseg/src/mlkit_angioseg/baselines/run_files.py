"""The baselines' run files, for `mlkit init`."""

from __future__ import annotations

from importlib.resources import files


def unet() -> str:
    """Return the run file of a plain U-Net, as YAML text."""
    return _text("unet.yaml")


def frangi() -> str:
    """Return the run file of Frangi's filter, as YAML text."""
    return _text("frangi.yaml")


def _text(name: str) -> str:
    return files("mlkit_angioseg").joinpath("run_files", name).read_text(encoding="utf-8")
