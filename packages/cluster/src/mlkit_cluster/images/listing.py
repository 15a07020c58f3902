"""Which images a source names: a folder, a list file, a data set's YAML, or one image."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mlkit_cluster.images.pixels import SUFFIXES
from mlkit_core.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_log = logging.getLogger("mlkit.cluster")
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class ImageEntry:
    """One image.

    Args:
        path: The file.
        key: The path from the listing's root, with `/`; absolute where it lies elsewhere.
        split: "train", "val", "test", or "" where the source has no splits.
    """

    path: Path
    key: str
    split: str = ""


@dataclass(frozen=True)
class Listing:
    """The images of a source, sorted by key, each once.

    Args:
        root: What keys start from.
        images: All entries.
        names: Of the classes, as the data set's YAML gives them; empty where there are none.
    """

    root: Path
    images: tuple[ImageEntry, ...]
    names: tuple[str, ...] = ()


def list_images(source: Path) -> Listing:
    """Return the images of a folder (with its sub-folders), a `.txt` list, a `.yaml` or a file.

    Lines of a list are paths from the list's folder. The YAML is ultralytics': `path` (from the
    YAML's own folder), `train`, `val`, `test` (each a folder, a list, or several) and `names`. An
    image that stands in several splits belongs to the first of them.

    Raises:
        DataError: The source is missing, malformed, or holds no image.
    """
    source = source.expanduser().absolute()
    if source.is_dir():
        listing = _sorted(source, ((path, "") for path in _in_folder(source)))
    elif not source.is_file():
        raise DataError(f"{source}: no such image, folder, list or data set")
    elif source.suffix.lower() in (".yaml", ".yml"):
        listing = _of_dataset(source)
    elif source.suffix.lower() == ".txt":
        listing = _sorted(source.parent, ((path, "") for path in _in_list(source)))
    elif source.suffix.lower() in SUFFIXES:
        listing = _sorted(source.parent, [(source, "")])
    else:
        raise DataError(
            f"{source}: expected an image, a folder, a .txt list or a .yaml, got {source.suffix!r}"
        )
    if not listing.images:
        raise DataError(f"{source}: holds no image", hint=f"images end in {_suffixes()}")
    return listing


def _suffixes() -> str:
    return ", ".join(sorted(SUFFIXES))


def _sorted(root: Path, found: Iterable[tuple[Path, str]], names: tuple[str, ...] = ()) -> Listing:
    entries: dict[Path, ImageEntry] = {}
    repeated = 0
    for path, split in found:
        inside = path.is_relative_to(root)
        key = path.relative_to(root).as_posix() if inside else path.as_posix()
        repeated += path in entries
        entries.setdefault(path, ImageEntry(path, key, split))
    if repeated:
        _log.warning("%s: %d images are named more than once; each counts once", root, repeated)
    return Listing(root, tuple(sorted(entries.values(), key=lambda e: e.key)), names)


def _in_folder(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in SUFFIXES and not hidden and path.is_file():
            yield path


def _in_list(file: Path) -> Iterator[Path]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as err:
        raise DataError(f"{file}: not a readable list of images: {err}") from err
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        path = _normal(file.parent / line.strip())
        if path.suffix.lower() not in SUFFIXES:
            raise DataError(f"{file}:{number}: expected an image, got {line.strip()!r}")
        yield path


def _normal(path: Path) -> Path:
    """Return the path without `.` and `..`, symbolic links as they are."""
    parts: list[str] = []
    for part in path.absolute().parts:
        if part == ".." and len(parts) > 1:
            parts.pop()
        elif part != "..":
            parts.append(part)
    return Path(*parts)


def _of_dataset(file: Path) -> Listing:
    try:
        value = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as err:
        raise DataError(f"{file}: not a readable YAML file: {' '.join(str(err).split())}") from err
    if not isinstance(value, dict) or not any(value.get(split) for split in SPLITS):
        raise DataError(f"{file}: expected a data set with at least one of {', '.join(SPLITS)}")
    root = _normal(file.parent / str(value.get("path") or "."))
    found = ((path, split) for split in SPLITS for path in _of_split(file, root, value, split))
    return _sorted(root, found, _names(file, value.get("names")))


def _of_split(file: Path, root: Path, value: Mapping[str, Any], split: str) -> Iterator[Path]:
    places = value.get(split) or []
    for place in places if isinstance(places, list) else [places]:
        path = _normal(root / str(place))
        if path.is_dir():
            yield from _in_folder(path)
        elif path.suffix.lower() == ".txt" and path.is_file():
            yield from _in_list(path)
        else:
            raise DataError(
                f"{file}: {split}: no such folder or list: {path}",
                hint="`path` starts at the folder of the YAML file",
            )


def _names(file: Path, value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, list):
        return tuple(map(str, value))
    if isinstance(value, dict) and sorted(value, key=str) == sorted(range(len(value)), key=str):
        return tuple(str(value[index]) for index in range(len(value)))
    raise DataError(f"{file}: names: expected a list, or 0, 1, 2, … to name, got {value!r}")
