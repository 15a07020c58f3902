"""Writes a plugin package to start from; the files beside this module are its templates."""

from __future__ import annotations

import re
from importlib.metadata import version
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING

from mlkit_core.errors import InputError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable
    from pathlib import Path

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def write_plugin(name: str, parent: Path) -> list[Path]:
    """Write the package `mlkit-<name>` into a new folder and return its files.

    Raises:
        InputError: The name is not kebab-case, begins with mlkit, or its folder exists.
    """
    check_name(name)
    folder = parent / f"mlkit-{name}"
    if folder.exists():
        raise InputError(f"{folder}: exists already", hint="choose another name, or remove it")
    module = f"mlkit_{name.replace('-', '_')}"
    words = {
        "name": name,
        "module": module,
        "Class": "".join(word.capitalize() for word in name.split("-")),
        "bounds": core_bounds(version("mlkit-core")),
    }
    texts = {
        folder / path.replace("src/", f"src/{module}/"): Template(text).substitute(words)
        for path, text in _templates(files(__name__), "")
    }
    texts[folder / "src" / module / "py.typed"] = ""
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return sorted(texts)


def check_name(name: str) -> None:
    """Raise InputError unless the name can serve a distribution, a module and a class."""
    if not _NAME.fullmatch(name):
        raise InputError(
            f"plugin name {name!r}: expected lower-case letters, digits and single hyphens",
            hint="as acme or acme-vision",
        )
    if name == "mlkit" or name.startswith("mlkit-"):
        rest = name.removeprefix("mlkit").removeprefix("-") or "acme"
        raise InputError(f"plugin name {name!r}: mlkit- is put before it", hint=f"say {rest!r}")


def core_bounds(installed: str) -> str:
    """Return the versions of mlkit-core that a plugin written today can expect to work with."""
    major, minor, *_ = installed.split(".")
    return f">={major}.{minor},<{major}.{int(minor) + 1}"


def _templates(folder: Traversable, prefix: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _templates(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".tmpl"):
            text = entry.read_text(encoding="utf-8")
            found.append((prefix + entry.name.removesuffix(".tmpl"), text))
    return found
