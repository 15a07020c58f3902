"""The baselines' run files, for `mlkit init`."""

from __future__ import annotations

from importlib.resources import files


def template_match() -> str:
    """Return the run file of template matching, as YAML text."""
    return _text("template-match.yaml")


def prototype_match() -> str:
    """Return the run file of matching frozen features, as YAML text."""
    return _text("prototype-match.yaml")


def _text(name: str) -> str:
    return files(__name__).joinpath(name).read_text(encoding="utf-8")
