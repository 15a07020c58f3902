"""A run file with an extractor, for the verb `extract`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlkit_core.config import load_config
from mlkit_core.config.tree import parse
from mlkit_core.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from mlkit_core.config.frame import Part


def names_extractor(path: Path) -> bool:
    """Return whether a file is a run file with an extractor, not a data set's YAML."""
    if path.suffix.lower() not in (".yaml", ".yml") or not path.is_file():
        return False
    try:
        tree = parse(path.read_text(encoding="utf-8-sig"), lambda line: f"{path}:{line}")
    except (ConfigError, UnicodeDecodeError):
        return False  # whoever reads it next says what is wrong
    return "extractor" in tree.fields


def parts_of(path: Path) -> tuple[str, Part, Part]:
    """Return a run file's name, data and extractor.

    Raises:
        ConfigError: The file is wrong, or has no data.
    """
    config = load_config(path)
    stage = config.stages[0]
    if stage.data is None or stage.extractor is None:
        raise ConfigError([f"{path}: expected data and an extractor"])
    return config.name, stage.data, stage.extractor
