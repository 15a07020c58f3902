"""What the JSON formats have in common: lists of rows, categories, and paths below a root."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from mlkit_core.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from mlkit_dvis.clips.problems import Problems

    Row = Mapping[str, Any]


def read_object(path: Path, lists: Sequence[str], kind: str, hint: str = "") -> dict[str, Any]:
    """Return a JSON file's object that has these lists.

    Args:
        path: The file.
        lists: Keys that must hold lists.
        kind: What the file is not where they are missing: "YouTube-VIS JSON".
        hint: What to do about it.

    Raises:
        DataError: It does not exist, is no JSON, or lacks a list.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise DataError(f"{path}: no such file") from err
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as err:
        raise DataError(f"{path}: not a readable JSON file: {err}") from err
    if not isinstance(content, dict):
        got = type(content).__name__
        raise DataError(f"{path}: not a {kind}: expected an object, got {got}", hint=hint)
    missing = [key for key in lists if not isinstance(content.get(key), list)]
    if missing:
        names = " and ".join(map(repr, missing))
        raise DataError(f"{path}: not a {kind}: it has no list {names}", hint=hint)
    return content


def rows_of(
    content: Row, key: str, numbers: Sequence[str], problems: Problems
) -> list[tuple[str, Row]]:
    """Return the rows of a list, each with the words that errors name it by.

    Args:
        content: The file's object.
        key: The list, a plural: "videos".
        numbers: Fields that must be whole numbers; a row that lacks one is a problem, and left out.
        problems: Where that is noted.
    """
    found: list[tuple[str, Row]] = []
    for number, row in enumerate(content[key]):
        where = f"{key}[{number}]"
        if not isinstance(row, dict):
            problems.add(where, f"expected an object, got {row!r:.40}")
            continue
        wrong = [name for name in numbers if type(row.get(name)) is not int]
        for name in wrong:
            problems.add(where, f"{name}: expected a whole number, got {row.get(name)!r:.40}")
        if not wrong:
            found.append((where, row))
    return found


def unique(rows: Iterable[tuple[str, Row]], problems: Problems) -> dict[int, Row]:
    """Return rows by their `id`; one that comes twice is a problem."""
    found: dict[int, Row] = {}
    for where, row in rows:
        if row["id"] in found:
            problems.add(where, f"id {row['id']} comes twice")
        found.setdefault(row["id"], row)
    return found


@dataclass
class Categories:
    """The categories of a file, and the labels that they become.

    Args:
        names: By category id, in order of the ids.
        classes: By label.
        strangers: How many annotations name each category that is none of `classes`.
    """

    names: Mapping[int, str]
    classes: tuple[str, ...]
    strangers: Counter[int] = field(default_factory=Counter)

    def label(self, where: str, category: object, problems: Problems) -> int | None:
        """Return a category's label; None, and a problem, where there is none."""
        if not isinstance(category, int) or category not in self.names:
            problems.add(where, f"names category {category!r:.40}, which does not exist")
            return None
        name = self.names[category]
        if name not in self.classes:
            self.strangers[category] += 1
            return None
        return self.classes.index(name)

    def note_strangers(self, problems: Problems) -> None:
        """Note each category that annotations name and that is none of the classes."""
        for category, count in self.strangers.items():
            what = f"{count} annotations have it, and it is none of the classes"
            problems.add(f"category {category} {self.names[category]!r}", what)


def read_categories(content: Row, classes: Sequence[str] | None, problems: Problems) -> Categories:
    """Return the categories; labels count in order of the ids, or as `classes` says."""
    rows = unique(rows_of(content, "categories", ["id"], problems), problems)
    names = {number: str(rows[number].get("name", "")) for number in sorted(rows)}
    for name, count in Counter(names.values()).items():
        if not name or count > 1:
            problems.add("categories", f"name {name!r} comes {count} times; each needs its own")
    return Categories(names, tuple(names.values() if classes is None else classes))


def inside(root: Path, name: object) -> Path:
    """Return the path of a file below a root.

    Raises:
        DataError: The name is none, or leaves the root.
    """
    if not isinstance(name, str) or not name:
        raise DataError(f"expected a file's name, got {name!r:.60}")
    pure = PurePosixPath(name.replace("\\", "/"))
    if pure.is_absolute() or ".." in pure.parts or ":" in pure.parts[0]:
        raise DataError(f"{name!r} leaves the folder {root}")
    return root / pure


def frame_files(
    where: str, names: Sequence[object], root: Path, problems: Problems, *, check: bool = True
) -> list[Path]:
    """Return the paths of frames below a root; those that are missing are one problem.

    Args:
        where: Words that errors name the video by.
        names: Of the files, as written.
        root: What they start from.
        problems: Where that is noted.
        check: False: they may be missing.
    """
    files: list[Path] = []
    missing: list[Path] = []
    for name in names:
        try:
            files.append(inside(root, name))
        except DataError as err:
            problems.add(where, str(err))
            return []
        if check and not files[-1].is_file():
            missing.append(files[-1])
    if missing:
        more = f" and {len(missing) - 1} more of its frames" if len(missing) > 1 else ""
        problems.add(where, f"no file {missing[0]}{more}")
    return files


def frame_folder(files: Sequence[Path], root: Path) -> str:
    """Return the folder of frames as seen from the root; empty where they share none."""
    folders = {path.parent for path in files}
    folder = folders.pop() if len(folders) == 1 else root
    return "" if folder == root else folder.relative_to(root).as_posix()


def own_names(wanted: Mapping[int, str]) -> dict[int, str]:
    """Return a unique name for each id: the wanted one, with the id where it is not unique."""
    count = Counter(wanted.values())
    return {
        number: name if name and count[name] == 1 else f"{name}#{number}"
        for number, name in wanted.items()
    }
